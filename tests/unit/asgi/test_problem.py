"""What becomes of each error of the client's for the caller of a service."""

import json

import pytest

from fibo_client import ConfigError, FiboError, MessageError, PublishError, PublishUnknownError, errors
from fibo_client.asgi import Problem
from fibo_client.asgi.problem import retry_after

OURS = (FiboError, ConfigError, MessageError)
"""Faults of the service itself."""


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_of_the_client_has_an_answer(name):
    kind = getattr(errors, name)
    problem = Problem.from_error(kind.__new__(kind))
    assert problem.status == 500 if kind in OURS else problem.status in (502, 503, 504)


@pytest.mark.parametrize("error", [ValueError("a secret"), KeyError("a secret"), ConfigError("redis://:a secret@host")])
def test_nothing_is_told_of_a_fault_of_the_service(error):
    assert b"secret" not in Problem.from_error(error).to_json()


def test_nothing_is_told_of_hosts_and_tasks():
    error = PublishError("redis://host: refused", ["id"])
    assert json.loads(Problem.from_error(error).to_json()) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The queue cannot be reached just now.",
    }


def test_who_may_have_begun_something_is_not_told_to_come_again():
    assert retry_after(PublishError("gone")) == 1
    assert retry_after(PublishUnknownError("gone")) is None


def test_the_errors_of_a_task_group_are_those_of_the_client():
    group = ExceptionGroup("tasks", [ExceptionGroup("more", [PublishError("gone")]), PublishError("gone")])
    assert Problem.from_error(group).status == 503
    assert Problem.from_error(ExceptionGroup("tasks", [PublishError("gone"), ValueError()])).status == 500


def test_what_a_stranger_sent_can_be_quoted():
    assert Problem.of(400, "\ud800 €").to_json().isascii()
