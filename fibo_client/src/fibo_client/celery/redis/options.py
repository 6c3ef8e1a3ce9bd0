"""The settings that only Redis has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fibo_client.celery.checks import check_encodable, check_names, check_text
from fibo_client.celery.redis.address import CLIENT_NAME
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence
    from typing import Self

__all__ = ["RedisOptions"]

_PATHS: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")

_GIVES_CREDENTIALS: Final = ("get_credentials_async", "get_credentials")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """How to reach Redis, and how Celery names its keys there. They are for both URLs.

    Raises:
        ConfigError: A value is wrong.
    """

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
    client_name: str | None = None
    """The name of each connection, for Redis' ``CLIENT LIST``, where the URL does not say: ``client_name`` of Celery's
    ``broker_transport_options``, and its ``redis_client_name``."""
    credential_provider: Any | None = field(default=None, repr=False)
    """What gives the user name and the password, in place of both URLs: an object with redis-py's interface
    ``redis.credentials.CredentialProvider``, such as that of a cloud whose tokens change. Those of one that streams
    are sent on live connections, too."""
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
    """A file of certificate authorities, where the URL does not say. Without this and the next two, they are the
    system's."""
    ssl_ca_path: str | None = None
    """A directory of certificate authorities, as OpenSSL's ``rehash`` makes it."""
    ssl_ca_data: str | None = field(default=None, repr=False)
    """Certificate authorities as text, in PEM."""
    ssl_certfile: str | None = None
    """The client's certificate, where the server wants one."""
    ssl_keyfile: str | None = None
    """The key of the client's certificate."""
    ssl_password: str | None = field(default=None, repr=False)
    """What that key is encrypted with."""
    ssl_check_hostname: bool | None = None
    """Whether the server's certificate must be for its host name. None is yes, unless certificates are not checked."""
    ssl_min_version: int | None = None
    """The oldest TLS that is spoken, such as ``ssl.TLSVersion.TLSv1_3``, which is 772. None is Python's."""
    ssl_ciphers: str | None = None
    """The ciphers up to TLS 1.2, as OpenSSL spells them. None is Python's."""
    ssl_include_verify_flags: str | Sequence[ssl.VerifyFlags] | None = None
    """What is checked of certificates besides what Python checks: flags, or their names with commas between them."""
    ssl_exclude_verify_flags: str | Sequence[ssl.VerifyFlags] | None = None
    """What Python checks and this client shall not, such as ``VERIFY_X509_STRICT``, which is new in Python 3.13."""

    def __post_init__(self) -> None:
        check_text("priority_separator", self.priority_separator)
        for name in ("broker_prefix", "result_prefix"):
            check_text(name, getattr(self, name), empty=True)
        check_encodable(self, _PATHS)
        object.__setattr__(self, "priority_steps", _check_steps(self.priority_steps))
        _check_fanout_prefix(self.fanout_prefix)
        _check_client_name(self.client_name)
        _check_provider(self.credential_provider)

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


def _check_client_name(name: object) -> None:
    if name is not None and not (isinstance(name, str) and CLIENT_NAME.fullmatch(name)):
        raise ConfigError(f"client_name={name!r} must be ASCII text without spaces, as Redis wants it")


def _check_provider(provider: object) -> None:
    if provider is None:
        return
    if isinstance(provider, (str, type)):
        raise ConfigError(
            "credential_provider must be an object, such as YourProvider(), "
            f"not {'its name' if isinstance(provider, str) else 'its class'}"
        )
    if not any(callable(getattr(provider, name, None)) for name in _GIVES_CREDENTIALS):
        raise ConfigError(
            f"credential_provider must have the method {' or '.join(_GIVES_CREDENTIALS)}, as redis-py's have, "
            f"and {type(provider).__name__} has none"
        )


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
