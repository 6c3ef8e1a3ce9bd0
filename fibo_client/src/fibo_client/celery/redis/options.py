"""The settings that only Redis has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.checks import check_encodable, check_integer, check_names, check_text
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["RedisOptions"]

_PATHS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """How to reach Redis, and how Celery names its keys there. They are for both URLs.

    Raises:
        ConfigError: A value is wrong.
    """

    max_connections: int = 10
    """The most connections to each of the two servers."""
    broker_prefix: str = ""
    """Celery's ``global_keyprefix`` of ``broker_transport_options``: set before every key and channel, verbatim."""
    result_prefix: str = ""
    """Celery's ``global_keyprefix`` of ``result_backend_transport_options``: an underscore follows it, unless it ends
    in one of ``: _ - .``."""
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)
    """The priorities that have a list of their own, as in Celery's ``broker_transport_options``."""
    priority_separator: str = "\x06\x16"
    """What stands between a queue's name and its priority, as ``sep`` in Celery's ``broker_transport_options``."""
    fanout_prefix: bool | str = True
    """kombu's ``fanout_prefix``, as in Celery's ``broker_transport_options``: what stands before the name of the
    channel of remote control. True is ``/{db}.``, with the number of the database; False is nothing."""
    master_name: str | None = None
    """The name of the master that the Sentinels watch; needed with ``sentinel://``."""
    sentinel_username: str | None = None
    """The user name for the Sentinels themselves, where they want one."""
    sentinel_password: str | None = field(default=None, repr=False)
    """The password for the Sentinels themselves, where they want one."""
    ssl_cert_reqs: str | int | None = None
    """``required``, ``optional`` or ``none``, or Python's number for it, such as ``ssl.CERT_REQUIRED``, where the URL
    does not say. None is ``required``.

    With ``sentinel://``, this or any other of the ``ssl_*`` options means TLS; with a URL that has none, such as
    ``redis://``, each of them is a ConfigError."""
    ssl_ca_certs: str | None = None
    """A file of certificate authorities, where the URL does not say. None is the system's."""
    ssl_certfile: str | None = None
    """The client's certificate, where the server wants one."""
    ssl_keyfile: str | None = None
    """The key of the client's certificate."""
    ssl_check_hostname: bool | None = None
    """Whether the server's certificate must be for its host name. None is yes, unless certificates are not checked."""

    def __post_init__(self) -> None:
        check_integer("max_connections", self.max_connections, 3)
        check_text("priority_separator", self.priority_separator)
        for name in ("broker_prefix", "result_prefix"):
            check_text(name, getattr(self, name), empty=True)
        check_encodable(self, _PATHS)
        object.__setattr__(self, "priority_steps", _check_steps(self.priority_steps))
        _check_fanout_prefix(self.fanout_prefix)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Make the options from a mapping.

        Args:
            fields: Values by name.

        Returns:
            The options.

        Raises:
            ConfigError: A name is not one of the fields, or a value is wrong.
        """
        check_names(cls, fields)
        return cls(**fields)


def _check_fanout_prefix(prefix: object) -> None:
    if not isinstance(prefix, (bool, str)):
        raise ConfigError(f"fanout_prefix={prefix!r} must be True, False, or text such as '/{{db}}.'")
    try:
        str(prefix).format(db=0)
    except (LookupError, ValueError, TypeError, AttributeError):
        raise ConfigError(f"fanout_prefix={prefix!r} may have one field in braces only: {{db}}") from None


def _check_steps(steps: object) -> tuple[int, ...]:
    if not isinstance(steps, (list, tuple)) or not steps:
        raise ConfigError(f"priority_steps={steps!r} must be a list of integers")
    numbers = tuple(steps)
    if any(isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= 9 for step in numbers):
        raise ConfigError(f"priority_steps={steps!r} must be integers from 0 to 9")
    if numbers[0] != 0 or list(numbers) != sorted(set(numbers)):
        raise ConfigError(f"priority_steps={steps!r} must begin with 0 and rise")
    return numbers
