"""Send and get more than JSON has: a type of your own, and pydantic's models."""

import asyncio
from decimal import Decimal

from proj.types import Money, Order, Receipt
from pydantic import BaseModel

from fibo_client.celery import CeleryClient, JSONType, RemoteTask

TYPES = [
    JSONType(Money, "money", Money.encode, Money.decode),  # the words of the worker's register_type
    JSONType(BaseModel, None, lambda model: model.model_dump(mode="json")),  # any model, as plain JSON
]
double = RemoteTask[[Money], Money]("proj.orders.double")
charge = RemoteTask[[Order], Receipt]("proj.orders.charge", decode=Receipt.model_validate)


async def main():
    async with CeleryClient(queue="proj", json_types=TYPES) as celery:
        print(await celery.call(double(Money(Decimal("1.50"), "EUR")), timeout=10))
        print(await celery.call(charge(Order(item="tea", price=Decimal("2.50"), count=2)), timeout=10))


asyncio.run(main())

# Prints:
# Money(amount=Decimal('3.00'), currency='EUR')
# order=Order(item='tea', price=Decimal('2.50'), count=2) total=Decimal('5.00')
