"""The settings of the Fibonacci client: Celery's, how large a number may be, and how many share a task."""

from __future__ import annotations

from dataclasses import dataclass

from fibo_client.celery.config import CeleryConfig, ConfigOverrides
from fibo_client.contract import DEFAULT_MAX_N, MAX_CHUNK, check_chunk_size
from fibo_client.errors import ConfigError

__all__ = ["FiboConfig", "FiboOverrides"]


class FiboOverrides(ConfigOverrides, total=False):
    """The settings that a `FiboClient` takes by keyword: the fields of `FiboConfig`, but for the two URLs."""

    max_n: int
    chunk_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FiboConfig(CeleryConfig):
    """The settings of a `FiboClient`."""

    max_n: int = DEFAULT_MAX_N
    """The largest n that is asked for. The worker has a limit of its own, ``FIBO_MAX_N``."""
    chunk_size: int = MAX_CHUNK
    """The most numbers that travel in one task, 1 to 1,000. 1 is one task a number."""

    def __post_init__(self) -> None:
        # Not super(): a dataclass with slots is another class than the one that this function was defined in.
        CeleryConfig.__post_init__(self)
        if isinstance(self.max_n, bool) or not isinstance(self.max_n, int) or self.max_n < 0:
            raise ConfigError(f"max_n={self.max_n!r} must be an integer, 0 or more")
        try:
            check_chunk_size(self.chunk_size)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None
