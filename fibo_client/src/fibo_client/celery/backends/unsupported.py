"""Result backends of Celery's that this client cannot read. Asking for a result raises, and says what to do.

A service that only sends needs no results, but may share its environment with workers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NoReturn

from fibo_client.celery.redis.urls import means_redis
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.server_health import ServerHealth

# fmt: off
_NAMES: Final = frozenset({
    "amqp", "arangodb", "azureblockblob", "cache", "cassandra", "consul", "cosmosdbsql", "couchbase", "couchdb",
    "database", "db", "django-cache", "django-db", "dynamodb", "elasticsearch", "file", "gs", "mongodb", "rediscluster",
    "riak", "rpc", "s3",
})
# fmt: on
"""Result backends that Celery and Django name without ``://``."""
_CLASS: Final = re.compile(r"[A-Za-z_]\w*(\.\w+)*\.([A-Z]\w*|\w+:[A-Z]\w*)", re.ASCII)
"""The path of a custom class. Celery takes it with ``://`` behind it, and without."""
_SCHEME: Final = re.compile(r"[a-z][a-z0-9_.+-]*")
_HARMLESS: Final = re.compile(r"[a-z][a-z0-9+-]{0,19}")

_SETTING: Final = "result_backend (or CELERY_RESULT_BACKEND)"
_SEND_ONLY: Final = (
    "Tasks can be sent all the same. To get a result, have the workers store it in a Redis, and give the URL of that "
    "as result_backend="
)
_NOT_STORED: Final = f"{_SETTING}: no results are stored, it is disabled. {_SEND_ONLY}"
_NONE: Final = f"{_SETTING} is not given, and a broker of the kind {{}} stores no results. {_SEND_ONLY}"
_STORED: Final = f"{_SETTING}: results are {{}}, and this client reads a Redis only. {_SEND_ONLY}"


def unsupported_reason(url: str | None) -> str | None:
    """Say why results cannot be read from a result backend.

    Args:
        url: The setting ``result_backend``: a URL, or one of Celery's names.

    Returns:
        The message for whoever asks for a result, without secrets. None if the backend is, or is meant to be, a Redis.
    """
    if not isinstance(url, str):
        return None
    scheme, mark, _ = url.partition("://")
    kind = scheme.lower()
    if kind == "disabled":
        return _NOT_STORED
    named = kind in _NAMES or _CLASS.fullmatch(scheme)
    # Without ``://``, it may be a host with a password before it.
    if not named and (not mark or not _SCHEME.fullmatch(kind) or means_redis(kind)):
        return None
    shown = "+".join(kind.split("+")[:2])  # db+postgresql+psycopg2 says whose driver, too.
    return _STORED.format(f"in {shown}" if _HARMLESS.fullmatch(shown) else "elsewhere")


def none_reason(scheme: str) -> str:
    """Say why results cannot be read where no result backend is given, and the broker's URL cannot be one."""
    return _NONE.format(scheme)


class UnsupportedBackend:
    """Implements `fibo_client.celery.backends.base.Backend`, and raises ConfigError for whatever is asked. No I/O.

    Args:
        broker: The broker beside it, whose health is taken for its own.
        reason: What the error says.
    """

    def __init__(self, broker: Broker, reason: str) -> None:
        self.health: ServerHealth = broker.health
        self.unreadable: str = reason

    async def get_many(self, *_: object, **__: object) -> NoReturn:
        """See `Backend.get_many`."""
        raise ConfigError(self.unreadable)

    async def delete_many(self, *_: object, **__: object) -> NoReturn:
        """See `Backend.delete_many`."""
        raise ConfigError(self.unreadable)

    async def put_many(self, *_: object, **__: object) -> NoReturn:
        """See `Backend.put`."""
        raise ConfigError(self.unreadable)

    async def get(self, *_: object, **__: object) -> NoReturn:
        """See `Backend.get`."""
        raise ConfigError(self.unreadable)

    async def discard(self, *_: object, **__: object) -> NoReturn:
        """See `Backend.discard`."""
        raise ConfigError(self.unreadable)

    async def subscribe(self, *_: object) -> NoReturn:
        """See `Backend.subscribe`."""
        raise ConfigError(self.unreadable)

    def keep_alive(self) -> None:
        """See `Backend.keep_alive`."""

    async def aclose(self) -> None:
        """See `Backend.aclose`."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
