"""Types of an app's own, as its worker registers them with kombu, and its clients are told of them."""

from proj.types import Money

MONEY = (Money, "money", Money.encode, Money.decode)
SET = (frozenset, "set", sorted, frozenset)
