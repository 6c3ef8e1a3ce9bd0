"""The settings of the Fibonacci client: those of the Celery client, the largest n, and the size of a chunk."""

from __future__ import annotations

from dataclasses import dataclass

from fibo_client.celery.config import CeleryConfig, ConfigOverrides
from fibo_client.contract import DEFAULT_MAX_N, MAX_CHUNK, check_chunk_size
from fibo_client.errors import ConfigError

__all__ = ["FiboConfig", "FiboOverrides"]


class FiboOverrides(ConfigOverrides, total=False):
    """The keyword arguments of a `FiboClient`: the fields of `FiboConfig` without the two URLs."""

    max_n: int
    chunk_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FiboConfig(CeleryConfig):
    """The settings of a `FiboClient`."""

    max_n: int = DEFAULT_MAX_N
    """The largest n that the client accepts. The worker has its own limit, ``FIBO_MAX_N``."""
    chunk_size: int = MAX_CHUNK
    """The most numbers in one task, 1 to 1,000. With 1, each number is a task of its own."""

    def __post_init__(self) -> None:
        # Not super(): slots=True makes a new class, and super() would look for the one that this method was defined in.
        CeleryConfig.__post_init__(self)
        if isinstance(self.max_n, bool) or not isinstance(self.max_n, int) or self.max_n < 0:
            raise ConfigError(f"max_n={self.max_n!r} must be an integer, 0 or more")
        try:
            check_chunk_size(self.chunk_size)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None
