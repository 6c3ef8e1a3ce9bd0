"""The tasks behind the shop's service: ``celery -A shop.orders worker --queues shop,mail``."""

import os
import time
from datetime import date
from decimal import Decimal
from uuid import UUID, uuid5

from .tasks import app

app.conf.task_routes = {"shop.orders.mail": {"queue": "mail"}}

STEP = float(os.environ.get("SHOP_STEP", "0.2"))
REPORT = float(os.environ.get("SHOP_REPORT", "20"))
"""Seconds that a step of a picture takes, and a report."""

PRICES = {"apple": "0.40", "bread": "3.20", "cake": "18.00", "dates": "7.95"}
STOCK = {"apple": 200, "bread": 12, "cake": 1, "dates": 0}
SHOP = UUID("5a0f1a52-9a3f-4d0b-8d5b-6f1f2b8d3c11")


class OutOfStockError(Exception):
    """There are fewer left than were asked for. The arguments are the item, and how many there are."""


@app.task(bind=True, max_retries=5)
def mail(self, order: int) -> str:
    """Send the e-mail of an order. The mail server takes it at the third attempt."""
    if self.request.retries < 2:
        raise self.retry(exc=ConnectionError("the mail server is busy"), countdown=STEP)
    return f"order-{order}.eml"


@app.task(bind=True)
def resize(self, name: str, steps: int = 10) -> str:
    """Make a picture smaller, in steps."""
    for done in range(1, steps + 1):
        time.sleep(STEP)  # in place of the work on a picture
        self.update_state(state="PROGRESS", meta={"done": done, "total": steps})
    return f"{name}-small.png"


@app.task
def report(year: int) -> str:
    """Add up a year."""
    time.sleep(REPORT)  # in place of the work on the orders of a year
    return f"report-{year}.pdf"


@app.task
def price(item: str) -> Decimal:
    return Decimal(PRICES[item])


@app.task
def reserve(item: str, count: int) -> int:
    if count > STOCK[item]:
        raise OutOfStockError(item, STOCK[item])
    return STOCK[item] - count


@app.task
def invoice(order: int) -> dict[str, date | Decimal | UUID]:
    """Write the invoice of an order. It has types that JSON has not, and Celery has."""
    return {"number": uuid5(SHOP, str(order)), "due": date(2030, 1, 31), "total": Decimal("29.95")}
