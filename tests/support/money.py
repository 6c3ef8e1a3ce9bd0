"""Types of an app's own: what its worker registers with kombu, and its clients are told, from the same words."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

from pydantic import BaseModel


@dataclass(frozen=True)
class Money:
    """An amount, as a worker's author would have it: one that has a type of Celery's JSON in it."""

    amount: Decimal
    currency: str

    def encode(self) -> dict[str, Any]:
        return {"amount": self.amount, "currency": self.currency}

    @classmethod
    def decode(cls, value: dict[str, Any]) -> Self:
        if value["currency"] == "XXX":
            raise RuntimeError("there is no such currency")
        return cls(**value)


MONEY = (Money, "money", Money.encode, Money.decode)
SET = (frozenset, "set", sorted, frozenset)


class Order(BaseModel):
    item: str
    price: Decimal
    count: int = 1


class Receipt(BaseModel):
    order: Order
    total: Decimal
