"""Moving bytes: the contracts, and Redis, which implements them."""
