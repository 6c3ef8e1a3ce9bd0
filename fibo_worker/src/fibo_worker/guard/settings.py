"""The settings of the guard, and what it wants of Celery's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from celery.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["VARIABLES", "GuardSettings"]

VARIABLES: Final = {
    "dead_letter_limit": "FIBO_DEAD_LETTER_LIMIT",
    "dead_letter_bytes": "FIBO_DEAD_LETTER_BYTES",
    "dead_letter_expires": "FIBO_DEAD_LETTER_EXPIRES",
    "max_body_bytes": "FIBO_MAX_BODY_BYTES",
    "max_memory": "FIBO_MAX_MEMORY",
    "socket_timeout": "FIBO_SOCKET_TIMEOUT",
}
"""The variables of the settings that are whole numbers, 1 or more."""

_LARGEST_PORT: Final = 65535
_LEAST_BYTES: Final = 65536  # More than any dead letter has whose message is cut.


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """The settings of `fibo_worker.guard.protect`. Each has a variable, such as ``FIBO_MAX_MEMORY``.

    Raises:
        ImproperlyConfigured: A value is wrong. The message names its variable.
    """

    _variables: ClassVar[Mapping[str, str]] = VARIABLES

    dead_letter_limit: int = 10_000
    """The most dead letters of each queue. The oldest are dropped."""
    dead_letter_bytes: int = 64 * 1024 * 1024
    """The most bytes of each queue's dead letters in Redis. The oldest are dropped. One that would take more than half
    of that is cut."""
    dead_letter_expires: int = 30 * 24 * 3600
    """Seconds after the last dead letter of a queue, at which all of them expire."""
    max_body_bytes: int = 16 * 1024 * 1024
    """The most bytes that the body of a message may have when decompressed."""
    max_memory: int = 4096
    """MiB of address space for each process that runs tasks. After a task, the worker replaces a process that uses more
    than a quarter of that."""
    socket_timeout: int = 5
    """Seconds that Redis may take to accept a connection, or to answer. After that, the connection counts as lost."""
    readiness_file: str | None = None
    """The path of a file that the worker touches every second while it takes tasks. None is no file."""
    metrics_port: int | None = None
    """The port of the metrics for Prometheus. With None, the worker serves none."""
    metrics_host: str = "127.0.0.1"
    """The address of this machine for the metrics. They have no password: whoever reaches the address can read them."""

    def __post_init__(self) -> None:
        for name, variable in self._variables.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ImproperlyConfigured(f"{variable} must be a whole number, 1 or more, not {value!r}")
        if self.dead_letter_bytes < _LEAST_BYTES:
            raise ImproperlyConfigured(
                f"FIBO_DEAD_LETTER_BYTES must be at least {_LEAST_BYTES}, not {self.dead_letter_bytes}"
            )
        port: object = self.metrics_port
        if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= _LARGEST_PORT):
            raise ImproperlyConfigured(f"FIBO_METRICS_PORT must be a port, 1 to {_LARGEST_PORT}, not {port!r}")

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the settings from an environment. An empty variable counts as not set.

        Args:
            env: The environment, such as ``os.environ``.

        Returns:
            The settings.

        Raises:
            ImproperlyConfigured: A variable is wrong. The message names it.
        """
        return cls(**cls._fields(env))

    @classmethod
    def _fields(cls, env: Mapping[str, str]) -> dict[str, Any]:
        """Return those fields that an environment has variables for."""
        fields: dict[str, Any] = {
            name: _whole(variable, env[variable]) for name, variable in cls._variables.items() if env.get(variable)
        }
        if port := env.get("FIBO_METRICS_PORT"):
            fields["metrics_port"] = _whole("FIBO_METRICS_PORT", port)
        if path := env.get("FIBO_READINESS_FILE"):
            fields["readiness_file"] = path
        if host := env.get("FIBO_METRICS_HOST"):
            fields["metrics_host"] = host
        return fields


def _whole(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        # A long value is probably a paste error, and may be a secret.
        value = repr(text) if len(text) <= 20 else f"a text of {len(text)} characters"
        raise ImproperlyConfigured(f"{variable} must be a whole number, 1 or more, not {value}") from None
