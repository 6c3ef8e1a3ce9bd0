"""The service's settings: ``FIBO_SERVICE_TIMEOUT=5`` in the environment sets `timeout`, and so on.

Where Redis is, is the client's business: ``CELERY_BROKER_URL`` and ``CELERY_RESULT_BACKEND``.
"""

import os
from typing import Self

from pydantic import BaseModel, Field

PREFIX = "FIBO_SERVICE_"


class Settings(BaseModel, frozen=True, extra="forbid"):
    """What one service asks of its workers, and what a stranger may ask of the service."""

    max_n: int = Field(default=20_000, ge=0)
    """The largest n."""
    max_numbers: int = Field(default=1_000, ge=1)
    """The most numbers in one request. With `max_n`, it bounds an answer: here to 3.5 MB."""
    timeout: float = Field(default=10.0, gt=0)
    """Seconds that a request may take; in a stream, each number from when it is under way."""
    max_pending: int = Field(default=10_000, ge=1)
    """The most numbers under way at once, for all callers together. What is beyond is told to come again."""
    ready_timeout: float = Field(default=1.0, gt=0)
    """Seconds that a worker has to answer `/readyz`."""

    @classmethod
    def from_env(cls) -> Self:
        """Read the environment. A name that is misspelled is refused, as is a value that makes no sense."""
        given = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
        return cls.model_validate({name.removeprefix(PREFIX).lower(): value for name, value in given.items()})


settings = Settings.from_env()
