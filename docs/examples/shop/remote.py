"""The Celery tasks of shop.orders:app. Written by fibo stubs; do not edit."""

# mypy: disable-error-code="empty-body"
# pyright: basic

from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from fibo_client.celery import remote_task


@remote_task("shop.orders.invoice", queue="shop")
def invoice(order: int) -> dict[str, date | Decimal | UUID]:
    """Write the invoice of an order. It has types that JSON has not, and Celery has."""
    ...


@remote_task("shop.orders.mail", queue="mail")
def mail(order: int) -> str:
    """Send the e-mail of an order. The mail server takes it at the third attempt."""
    ...


@remote_task("shop.orders.price", queue="shop")
def price(item: str) -> Decimal: ...


@remote_task("shop.orders.report", queue="shop")
def report(year: int) -> str:
    """Add up a year."""
    ...


@remote_task("shop.orders.reserve", queue="shop")
def reserve(item: str, count: int) -> int: ...


@remote_task("shop.orders.resize", queue="shop")
def resize(name: str, steps: int = 10) -> str:
    """Make a picture smaller, in steps."""
    ...


@remote_task("shop.tasks.catalogue", queue="shop")
def catalogue(pages: Any) -> Any:
    """Draw a catalogue: a kilobyte a page."""
    ...


@remote_task("shop.tasks.total", queue="shop")
def total(prices: Any) -> Any: ...
