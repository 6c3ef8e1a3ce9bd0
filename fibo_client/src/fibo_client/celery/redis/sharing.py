"""The connections that the broker and the result backend of one client share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fibo_client.celery.redis.connections import Connections

if TYPE_CHECKING:
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.address import RedisAddress


def shared_connections(
    address: RedisAddress, config: CeleryConfig, shared: dict[RedisAddress, Connections]
) -> Connections:
    """Make the connections to a database, or take those that the client's other driver made.

    Args:
        address: The database.
        config: The client's settings.
        shared: The client's connections by address, to which these are added.

    Returns:
        The connections. Those to two databases of one server share its `ServerHealth`, so an outage is logged once.
    """
    if address not in shared:
        same_server = (each for each in shared if dataclasses.replace(each, db=address.db) == address)
        beside = next(same_server, None)
        shared[address] = Connections(address, config, None if beside is None else shared[beside].health)
    return shared[address]
