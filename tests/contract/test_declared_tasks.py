"""Declared tasks are compared with those of a Celery app: plain ones, bound ones, classes, and with a wrapper."""

from __future__ import annotations

import celery
import pytest

from fibo_client.celery import remote_task
from fibo_client.testing import check_declared

KINDS = ["shop.plain", "shop.bound", "shop.own_class", "shop.retried"]


@pytest.fixture(scope="module")
def app():
    with celery.Celery("contract", broker="memory://", set_as_current=False) as app:

        class Own(celery.Task):
            name = "shop.own_class"

            def run(self, name, steps=5): ...

        def plain(name, steps=5): ...

        def bound(self, name, steps=5): ...

        app.task(plain, name="shop.plain")
        app.task(bound, name="shop.bound", bind=True)
        app.task(bound, name="shop.retried", bind=True, autoretry_for=(ValueError,))
        app.register_task(Own())
        yield app


@pytest.mark.parametrize("name", KINDS)
def test_a_declaration_of_the_same_parameters_fits(app, name):
    @remote_task(name)
    def stub(name: str, steps: int = 5) -> str: ...

    check_declared([stub], app.tasks)


@pytest.mark.parametrize("name", KINDS)
def test_a_declaration_of_others_does_not(app, name):
    @remote_task(name)
    def stub(name: str, steps: int = 4) -> str: ...

    with pytest.raises(AssertionError, match=r"does not fit \(name, steps=5\): its default of steps is 5$"):
        check_declared([stub], app.tasks)
