"""An app's own types, as its worker registers them with kombu, and its clients with `json_types`."""

from proj.types import Money

MONEY = (Money, "money", Money.encode, Money.decode)
SET = (frozenset, "set", sorted, frozenset)
