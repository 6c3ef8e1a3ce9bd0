"""By the same ``task_routes``, a task goes to the queue, and has the priority, that the installed Celery chooses."""

from __future__ import annotations

import re

import celery
import pytest
from celery.app.routes import MapRoute
from celery.signals import before_task_publish
from hypothesis import given
from hypothesis import strategies as st

from fibo_client import ConfigError
from fibo_client.celery import CeleryClient
from fibo_client.celery.routes import Routes
from fibo_client.testing import FakeCelery

TASKS = ["mail.send", "mail.send.all", "email.send", "video.cut", "image.cut", "a?b", "acb", "a*b", "other", "[x]*"]


def by_first_argument(name, args, kwargs, options, task=None, **kw):
    return {"queue": args[0], "priority": 7} if name == "other" and args else None


def by_keyword(name, args, kwargs, options, task=None, **kw):
    return kwargs.get("to")


def by_option(name, args, kwargs, options, task=None, **kw):
    return f"shadowed-{options['priority']}" if options.get("priority") else None


ROUTES = {
    "none": None,
    "empty": {},
    "no routers": [],
    "a name": {"mail.send": {"queue": "mail"}},
    "a queue's name": {"mail.send": "mail", "mail.*": "more"},
    "a glob": {"mail.*": {"queue": "mail"}},
    "a glob in the middle": {"*.cut": {"queue": "media"}},
    "what is no glob without an asterisk": {"a?b": "question", "[x]*": "bracket", "a*b": "asterisk"},
    "the name before the glob": {"mail.*": "all", "mail.send": "one"},
    "the first glob": {"mail.s*": "first", "mail.*": "second", "*": "third"},
    "a pattern": {re.compile(r"(video|image)\.cut"): {"queue": "media"}},
    "a pattern that matches from the beginning alone": {re.compile("send"): "never", re.compile("mail"): "begun"},
    "a pattern before a glob": {re.compile("mail"): "pattern", "mail.*": "glob"},
    "priority alone": {"mail.*": {"priority": 4}},
    "both": {"mail.*": {"queue": "mail", "priority": 9}},
    "an empty route ends the search": [{"mail.send": {}}, {"mail.*": "mail"}],
    "a list of dicts": [{"mail.send": {"priority": 2}}, {"mail.*": "mail", "video.*": "media"}],
    "a tuple of dicts": ({"mail.*": "mail"}, {"*": "rest"}),
    "a list of pairs": [[("mail.*", {"queue": "mail"}), ("mail.send", "one"), (re.compile("video"), "media")]],
    "pairs of one name": [[("mail.send", "first"), ("mail.send", "last"), ("*.cut", "first"), ("*.cut", "last")]],
    "a function": by_first_argument,
    "a function and a dict": [by_keyword, {"other": "rest"}],
    "a dict and a function": [{"other": "rest"}, by_keyword],
    "a function of options": [by_option, by_keyword],
}
CALLS = {
    "plain": {},
    "args": {"args": ("first",)},
    "kwargs": {"args": ("first",), "kwargs": {"to": "keyword"}},
    "a queue of the call": {"queue": "mine"},
    "a priority of the call": {"priority": 1},
    "both of the call": {"queue": "mine", "priority": 1},
}


@pytest.fixture
def published():
    """What Celery's client publishes: queue and priority, in order."""
    found = []

    def note(routing_key, properties, exchange, **_):
        assert exchange == ""
        found.append((routing_key, properties.get("priority") or 0))

    before_task_publish.connect(note)
    yield found
    before_task_publish.disconnect(note)


@pytest.mark.parametrize("routes", ROUTES)
async def test_each_task_goes_where_celery_sends_it(routes, published):
    fake = FakeCelery()
    settings = {"task_routes": ROUTES[routes]}
    with celery.Celery("contract", broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        app.conf.update(task_default_queue="default", **settings)
        for call in CALLS.values():
            for task in TASKS:
                app.send_task(task, **call)
    async with CeleryClient(transport=fake, queue="default", **settings) as client:
        for call in CALLS.values():
            for task in TASKS:
                await client.send_task(task, **call)
    assert [(sent.queue, sent.priority) for sent in fake.sent] == published


KEYS = st.text("ab.*?[]!-", min_size=1, max_size=6)
PAIRS = st.lists(st.tuples(KEYS | KEYS.map(re.escape).map(re.compile), st.sampled_from(["one", "two", "three"])))


@given(PAIRS, st.text("ab.*", min_size=1, max_size=4))
def test_the_route_of_any_name_in_any_table_is_celerys(pairs, task):
    assert Routes([pairs]).queue_of(task) == (MapRoute(pairs)(task) or {}).get("queue")


@pytest.mark.parametrize(
    "routes",
    [
        [("mail.*", {"queue": "mail"}), ("video.*", "media")],  # Pairs that are in no list of their own.
        {"mail.send": {"queue": "mail", "time_limit": 5}},
        {"mail.send": {"queue": "mail", "expires": 5}},
        {"mail.send": {"countdown": 5}},
        {"mail.send": {"task_id": "mine"}},
        {"mail.send": None},
        {"mail.send": 5},
    ],
)
def test_what_celery_stumbles_over_when_it_sends_is_refused_when_the_settings_are_made(routes):
    with celery.Celery("contract", broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        app.conf.task_routes = routes
        with pytest.raises((TypeError, ValueError)):
            app.send_task("mail.send")
    with pytest.raises(ConfigError, match="task_routes"):
        CeleryClient(task_routes=routes)


async def test_a_route_can_have_arguments_compressed_as_in_celery():
    fake = FakeCelery()
    settings = {"task_routes": {"mail.*": {"queue": "packed", "compression": "gzip"}}}
    with celery.Celery("contract", broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        app.conf.update(settings)
        app.send_task("mail.send", ("x" * 1000,))
        with app.connection() as connection, connection.SimpleQueue("packed") as queue:
            message = queue.get(block=False)
            message.ack()
    async with CeleryClient(transport=fake, **settings) as client:
        await client.send_task("mail.send", ("x" * 1000,))
    sent = fake.assert_sent("mail.send", "x" * 1000)
    assert (sent.queue, sent.options["compression"]) == ("packed", message.headers["compression"])
