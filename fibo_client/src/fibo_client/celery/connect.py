"""From settings to a broker and a result backend."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

from fibo_client.celery.backends.redis import RedisBackend
from fibo_client.celery.backends.unsupported import UnsupportedBackend, unsupported_reason
from fibo_client.celery.brokers.redis import RedisBroker
from fibo_client.celery.redis.connections import Connections
from fibo_client.celery.redis.keys import BrokerKeys, result_key_prefix
from fibo_client.celery.redis.urls import parse_url

if TYPE_CHECKING:
    from fibo_client.celery.backends.base import Backend
    from fibo_client.celery.brokers.base import Broker
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.urls import RedisAddress


def connect(config: CeleryConfig) -> tuple[RedisBroker, RedisBackend | UnsupportedBackend]:
    """Make the broker and the result backend that the settings name. No I/O yet.

    Args:
        config: The settings.

    Returns:
        The two, over the same connections where both are on the same server and database.

    Raises:
        ConfigError: A URL is wrong.
    """
    broker_address, store_address, foreign = _read_urls(config)
    broker_connections = Connections(broker_address, config)
    store_connections = broker_connections
    if store_address != broker_address:
        # Two databases of one server come and go together: one line for both.
        same = dataclasses.replace(store_address, db=broker_address.db) == broker_address
        store_connections = Connections(store_address, config, broker_connections.health if same else None)
    keys = BrokerKeys(
        prefix=config.broker_prefix,
        steps=config.priority_steps,
        separator=config.priority_separator,
        db=broker_address.db,
        control_exchange=config.control_exchange,
        fanout_prefix=config.fanout_prefix,
    )
    broker = RedisBroker(broker_connections, keys)
    if foreign is not None:
        return broker, UnsupportedBackend(broker, foreign)
    return broker, RedisBackend(store_connections, result_key_prefix(config.result_prefix))


def check_urls(config: CeleryConfig) -> str | None:
    """Check both URLs of the settings, as `connect` does.

    Args:
        config: The settings.

    Returns:
        Why no results can be read where they are stored. None where they can.

    Raises:
        ConfigError: A URL is wrong.
    """
    return _read_urls(config)[2]


def _read_urls(config: CeleryConfig) -> tuple[RedisAddress, RedisAddress, str | None]:
    """Read both URLs: the broker's address, that of the results, and why these cannot be read, if they cannot."""
    broker_address = parse_url(config.broker_url, config, role="broker_url")
    foreign = unsupported_reason(config.result_backend)
    if config.result_backend is None or foreign is not None:
        return broker_address, broker_address, foreign
    return broker_address, parse_url(config.result_backend, config, role="result_backend"), None


class Transport(Protocol):
    """Makes the two of what a client is told: `connect` does so where nothing else is asked for."""

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
