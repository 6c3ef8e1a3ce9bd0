"""The Redis server that the broker and the result backend of one client share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from fibo_client.celery.redis.server import RedisServer

if TYPE_CHECKING:
    from fibo_client.celery.config import CeleryConfig
    from fibo_client.celery.redis.address import RedisAddress


def shared_server(address: RedisAddress, config: CeleryConfig, shared: dict[RedisAddress, RedisServer]) -> RedisServer:
    """Make the server at an address, or take the one that the client's other driver made.

    Args:
        address: The database.
        config: The client's settings.
        shared: The client's servers by address, to which this one is added.

    Returns:
        The server. Two databases of one share what is known of it, so an outage is logged once.
    """
    if address not in shared:
        others = (shared[each] for each in shared if dataclasses.replace(each, db=address.db) == address)
        shared[address] = RedisServer(address, config, same_server=next(others, None))
    return shared[address]
