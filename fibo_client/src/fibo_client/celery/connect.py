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


def connect(config: CeleryConfig) -> tuple[RedisBroker, RedisBackend | UnsupportedBackend]:
    """Make the broker and the result backend that the settings name. No I/O yet.

    Args:
        config: The settings.

    Returns:
        The two, over the same connections where both are on the same server and database.

    Raises:
        ConfigError: A URL is wrong.
    """
    broker_address = parse_url(config.broker_url, config.redis, role="broker_url")
    broker_connections = Connections(broker_address, config)
    store_connections = broker_connections
    foreign = unsupported_reason(config.result_backend)
    if config.result_backend is not None and foreign is None:
        store_address = parse_url(config.result_backend, config.redis, role="result_backend")
        if store_address != broker_address:
            # Two databases of one server come and go together: one line for both.
            same = dataclasses.replace(store_address, db=broker_address.db) == broker_address
            store_connections = Connections(store_address, config, broker_connections.health if same else None)
    keys = BrokerKeys(
        prefix=config.redis.broker_prefix,
        steps=config.redis.priority_steps,
        separator=config.redis.priority_separator,
        db=broker_address.db,
        control_exchange=config.control_exchange,
        fanout_prefix=config.redis.fanout_prefix,
    )
    broker = RedisBroker(broker_connections, keys)
    if foreign is not None:
        return broker, UnsupportedBackend(broker, foreign)
    return broker, RedisBackend(store_connections, result_key_prefix(config.redis.result_prefix))


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
