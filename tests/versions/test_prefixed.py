"""Workers whose broker has a ``global_keyprefix`` answer what the client asks, in each version."""

import pytest
from versions.conftest import PATIENCE, PINS, heard, worker_of

from fibo_client import TaskRevokedError
from fibo_client.celery import CeleryClient, RedisOptions

pytestmark = pytest.mark.timeout(300)

PREFIX = "tenant:"


@pytest.fixture(scope="module", params=list(PINS))
def prefixed(request, redis_server):
    url = redis_server.fresh_url()
    with worker_of(request.param, url, broker_transport_options={"global_keyprefix": PREFIX}) as running:
        yield running


async def test_it_is_asked_and_told(prefixed):
    options = RedisOptions(broker_prefix=PREFIX)
    async with CeleryClient(prefixed.url, timeout=PATIENCE, redis=options) as celery:
        inspect, node = celery.inspect(timeout=PATIENCE), prefixed.node
        assert [each.name for each in await celery.ping(timeout=PATIENCE)] == [node]
        assert [each.name for each in await celery.ping(destination=[node], timeout=PATIENCE)] == [node]
        assert await inspect.active() == {node: []}
        assert [each["name"] for each in (await inspect.active_queues())[node]] == ["celery"]
        assert await celery.call("stock.add", (2, 3)) == 5
        handle = await celery.send_task("stock.sleep", (60,))
        assert await handle.revoke(terminate=True) == 1
        await heard(celery)
        with pytest.raises(TaskRevokedError):
            await handle.get()
