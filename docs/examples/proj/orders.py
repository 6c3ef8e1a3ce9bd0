"""Plain Celery tasks that take and give more than JSON has. Nothing here knows of fibo."""

from kombu.utils.json import register_type

from proj.tasks import app
from proj.types import Money, Order, Receipt

register_type(Money, "money", Money.encode, Money.decode)


@app.task
def double(money):
    return Money(money.amount * 2, money.currency)


@app.task(pydantic=True)
def charge(order: Order) -> Receipt:
    return Receipt(order=order, total=order.price * order.count)
