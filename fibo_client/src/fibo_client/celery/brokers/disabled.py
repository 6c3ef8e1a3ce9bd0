"""No broker: for a client that only reads results. Whoever sends, or asks workers, is told so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from fibo_client.errors import ConfigError
from fibo_client.telemetry.tracer import Server

if TYPE_CHECKING:
    from fibo_client.celery.server_health import ServerHealth

SCHEME: Final = "disabled"

_REASON: Final = (
    "broker_url (or CELERY_BROKER_URL) is disabled://, so this client only reads results. To send tasks, or to ask "
    "workers, give the broker's URL"
)


class DisabledBroker:
    """Implements `fibo_client.celery.brokers.base.Broker`, and raises ConfigError for whatever is asked. No I/O.

    Args:
        health: The result backend's, which it takes for its own.
    """

    unusable: Final = _REASON
    last_priority: Final = 9
    server: Final = Server(SCHEME)

    def __init__(self, health: ServerHealth) -> None:
        self.health: ServerHealth = health

    def check(self, *_: object, **__: object) -> NoReturn:
        """See `Broker.check`."""
        raise ConfigError(_REASON)

    ready: Final = True

    async def prepare(self) -> NoReturn:
        """See `Broker.prepare`."""
        raise ConfigError(_REASON)

    def publish(self, *_: object, **__: object) -> NoReturn:
        """See `Broker.publish`."""
        raise ConfigError(_REASON)

    async def depth(self, *_: object, **__: object) -> NoReturn:
        """See `Broker.depth`."""
        raise ConfigError(_REASON)

    async def locate(self, *_: object, **__: object) -> NoReturn:
        """See `Broker.locate`."""
        raise ConfigError(_REASON)

    async def broadcast(self, *_: object, **__: object) -> NoReturn:
        """See `Broker.broadcast`."""
        raise ConfigError(_REASON)

    async def ask(self, *_: object, **__: object) -> NoReturn:
        """See `Broker.ask`."""
        raise ConfigError(_REASON)

    def keep_alive(self) -> None:
        """See `Broker.keep_alive`."""

    async def aclose(self) -> None:
        """See `Broker.aclose`."""

    def __str__(self) -> str:
        return f"{SCHEME}://"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
