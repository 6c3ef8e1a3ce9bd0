"""What both sides of a queue know: a class with its way into JSON and back, and pydantic's models."""

from dataclasses import dataclass
from decimal import Decimal

from pydantic import BaseModel


@dataclass(frozen=True)
class Money:
    amount: Decimal
    currency: str

    def encode(self):
        return {"amount": self.amount, "currency": self.currency}

    @classmethod
    def decode(cls, value):
        return cls(**value)


class Order(BaseModel):
    item: str
    price: Decimal
    count: int = 1


class Receipt(BaseModel):
    order: Order
    total: Decimal
