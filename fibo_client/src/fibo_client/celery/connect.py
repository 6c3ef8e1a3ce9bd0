"""From settings to a broker and a result backend, each by a driver that is imported when a URL's scheme asks for it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final, Protocol

from fibo_client.celery.backends.unsupported import UnsupportedBackend, none_reason, unsupported_reason
from fibo_client.celery.brokers.disabled import SCHEME, DisabledBroker
from fibo_client.celery.redis.urls import SCHEMES, parse_url
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.address import Role
    from fibo_client.celery.redis.options import RedisOptions

BROKERS: Final[Mapping[str, str]] = dict.fromkeys(SCHEMES, "fibo_client.celery.brokers.redis:RedisBroker")
"""The drivers by scheme, each as ``module:class``, as in kombu's ``TRANSPORT_ALIASES``."""

BACKENDS: Final[Mapping[str, str]] = dict.fromkeys(SCHEMES, "fibo_client.celery.backends.redis:RedisBackend")
"""The same for result backends, as in Celery's ``BACKEND_ALIASES``."""


def connect(config: CeleryConfig) -> tuple[Broker, Backend]:
    """Make the broker and the result backend that the settings name. No I/O yet.

    Args:
        config: The settings.

    Returns:
        The two. They share connections where they can.

    Raises:
        ConfigError: A URL is wrong.
    """
    unreadable = check_urls(config)
    shared: dict[Any, Any] = {}  # What drivers of one kind share; the others do not look.
    if is_disabled(config.broker_url):
        only: Backend = _driver(BACKENDS, str(config.result_backend)).connect(config, shared)
        return DisabledBroker(only.health), only
    broker: Broker = _driver(BROKERS, config.broker_url).connect(config, shared)
    if unreadable is not None:
        return broker, UnsupportedBackend(broker, unreadable)
    backend: Backend = _driver(BACKENDS, config.result_backend or config.broker_url).connect(config, shared)
    return broker, backend


def check_urls(config: CeleryConfig) -> str | None:
    """Check both URLs without importing a driver. Of a driver that is not of Redis, `connect` checks the URL.

    Args:
        config: The settings.

    Returns:
        Why no result can be read from the result backend, or None.

    Raises:
        ConfigError: A URL is wrong.
    """
    unreadable = None if _scheme(config.result_backend) in BACKENDS else unsupported_reason(config.result_backend)
    if not is_disabled(config.broker_url):
        _check_url(config.broker_url, BROKERS, config.redis, role="broker_url")
    elif config.result_backend is None or unreadable is not None:
        raise ConfigError("broker_url is disabled://, so a result_backend is needed whose results this client can read")
    if config.result_backend is None:
        return None if _scheme(config.broker_url) in BACKENDS else none_reason(_scheme(config.broker_url))
    if unreadable is None:
        _check_url(config.result_backend, BACKENDS, config.redis, role="result_backend")
    return unreadable


def is_disabled(url: object) -> bool:
    """Tell whether a URL says that there is no broker."""
    return isinstance(url, str) and url.lower() == f"{SCHEME}://"


def _check_url(url: str, drivers: Mapping[str, str], redis: RedisOptions, *, role: Role) -> None:
    """Check a URL of Redis. One of nothing that is known is taken for one, whose error says what there is."""
    if _scheme(url) in SCHEMES or _scheme(url) not in drivers:
        parse_url(url, redis, role=role)


def _scheme(url: object) -> str:
    return str(url).partition("://")[0].lower()


def _driver(drivers: Mapping[str, str], url: str) -> Any:
    module, _, name = drivers[_scheme(url)].partition(":")
    return getattr(importlib.import_module(module), name)


class Transport(Protocol):
    """Makes the broker and the result backend of a client, in place of `connect`."""

    def connect(self, config: CeleryConfig) -> tuple[Broker, Backend]:
        """Make a broker and a result backend for one client, which closes them. No I/O yet.

        Args:
            config: The client's settings.

        Returns:
            The two.

        Raises:
            ConfigError: A setting is wrong.
        """
        ...


def check_transport(transport: object) -> None:
    """Check what should be a `Transport`. Raise ConfigError for anything else."""
    if isinstance(transport, type):
        raise ConfigError(f"transport must be an object, not a class; write: transport={transport.__name__}()")
    if not callable(getattr(transport, "connect", None)):
        raise ConfigError(f"transport must have a connect(), as FakeCelery() has, not be {type(transport).__name__}")
