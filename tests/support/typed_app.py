"""A plain Celery app with its own types, registered as kombu's documentation says, and pydantic models.

``celery -A support.typed_app worker``, as `support.stock`, with docs/examples on the PYTHONPATH, too.
"""

import time
from decimal import Decimal

from kombu.utils.json import register_type
from proj.types import Money, Order, Receipt

from support.own_types import MONEY, SET
from support.stock import app, task

__all__ = ["app"]

register_type(*MONEY)
register_type(*SET)


@task(name="typed.echo")
def echo(*args, **kwargs):
    return [args, kwargs]


@task(name="typed.double")
def double(money):
    return Money(money.amount * 2, money.currency)


@task(name="typed.currency")
def currency(money):
    return money.currency


@task(name="typed.report", bind=True)
def report(self, money, seconds):
    self.update_state(state="PROGRESS", meta={"sum": money})
    time.sleep(seconds)  # The caller says how long the worker is to be busy.
    return money.currency


@task(name="typed.refuse")
def refuse(money):
    raise ValueError("too much", money)


@task(name="typed.charge", pydantic=True)
def charge(order: Order, discount: Decimal = Decimal(0)) -> Receipt:
    return Receipt(order=order, total=order.price * order.count - Decimal(discount))
