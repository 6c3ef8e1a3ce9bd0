import pytest

from fibo_worker.app import create_app
from fibo_worker.guard.transport import _ValidatingChannel
from fibo_worker.settings import WorkerSettings


@pytest.mark.parametrize(
    "url",
    ["redis://h", "rediss://h", "redis+socket:///tmp/s", "sentinel://a:1;sentinel://b:2", "redis://a;redis://b"],
)
def test_every_url_that_the_worker_takes_gets_the_validating_transport(url):
    backend = url if url.startswith("sentinel") else url.partition(";")[0]
    app = create_app(WorkerSettings(broker_url=url, result_backend=backend, master_name="mymaster"))
    with app.connection_for_read() as connection, connection.clone() as again:
        for each in (connection, again):
            assert issubclass(each.get_transport_cls().Channel, _ValidatingChannel)
        assert again.as_uri().startswith(url.partition(":")[0])
        connection.switch("sentinel://c:3")
        assert issubclass(connection.get_transport_cls().Channel, _ValidatingChannel)
