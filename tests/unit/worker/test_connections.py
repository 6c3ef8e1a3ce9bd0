"""The bounds of connections: their defaults, what wins over them, and what of a URL is read."""

import socket

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured
from kombu import Connection as KombuConnection

from fibo_worker.guard import GuardSettings, protect
from fibo_worker.guard.connections import _KOMBUS_URL_OPTIONS

URL = "redis://localhost:1"
BOUNDS = ("socket_timeout", "socket_connect_timeout")


@pytest.fixture
def made():
    """Makes protected apps, and puts them aside afterwards."""
    apps = []

    def make(url=URL, *, seconds=7, without=(), backend=None, **conf):
        app = Celery("shop", broker=url, backend=backend or url, set_as_current=False)
        app.conf.update(conf)
        apps.append(protect(app, settings=GuardSettings(socket_timeout=seconds), without=without))
        return app

    yield make
    for app in apps:
        app.close()


def of_broker(app):
    return app.connection_for_read().transport_options


def of_backend(app):
    return app.backend.connparams


def test_every_operation_of_broker_and_backend_is_bounded(made):
    app = made()
    for options in (of_broker(app), of_backend(app)):
        assert [options[name] for name in BOUNDS] == [7, 7]
        assert options["health_check_interval"] == 7
        assert options["socket_keepalive"] is True
        assert min(options["socket_keepalive_options"].values()) > 0
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert options["socket_keepalive_options"][socket.TCP_KEEPIDLE] <= 10


def test_connections_for_sending_and_clones_are_bounded_too(made):
    app = made()
    for connection in (app.connection_for_write(), app.connection_for_write().clone()):
        assert connection.transport_options["socket_timeout"] == 7


def test_connections_of_the_pool_are_guarded_too(made):
    app = made()
    pooled, plain = app.pool.new(), app.connection_for_write()
    assert pooled.transport_options == plain.transport_options
    assert pooled.get_transport_cls() is plain.get_transport_cls()


def test_what_an_app_says_itself_wins(made):
    app = made(
        broker_transport_options={"socket_timeout": 90, "socket_keepalive": False},
        redis_socket_timeout=91,
        redis_socket_keepalive=False,
        redis_backend_health_check_interval=92,
    )
    assert of_broker(app)["socket_timeout"] == 90
    assert of_broker(app)["socket_keepalive"] is False
    assert of_broker(app)["socket_connect_timeout"] == 7
    assert (of_backend(app)["socket_timeout"], of_backend(app)["health_check_interval"]) == (91, 92)
    assert "socket_keepalive_options" not in of_backend(app)


def test_an_app_without_the_protection_has_kombus_bounds_and_celerys(made):
    app = made(without={"lost-connections"})
    assert "socket_timeout" not in of_broker(app)
    assert of_backend(app)["socket_timeout"] == 120


def test_a_url_says_it_for_broker_and_backend_alike(made):
    app = made(f"{URL}/3?socket_timeout=2.5&socket_connect_timeout=1&socket_keepalive=no&max_connections=4")
    for options in (of_broker(app), of_backend(app)):
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (2.5, 1)
        assert (options["socket_keepalive"], options["max_connections"]) == (False, 4)
    connection = app.connection_for_read()
    assert (connection.hostname, connection.port, connection.virtual_host) == ("localhost", 1, "3")


@pytest.mark.parametrize(
    "url",
    [
        "redis://a:1/0?socket_timeout=2;redis://b:2/0?socket_timeout=3",
        "sentinel://a:1/0?socket_timeout=2;sentinel://b:2",
        "redis+socket:///tmp/r.sock?socket_timeout=2&virtual_host=3",
        "rediss://a:1/0?ssl_cert_reqs=none&socket_timeout=2",
    ],
)
def test_a_url_of_any_kind_says_it(made, url):
    connection = made(url, backend=URL).connection_for_read()
    assert connection.transport_options["socket_timeout"] == 2
    assert "socket_timeout" not in connection.as_uri()
    connection.maybe_switch_next()
    assert connection.transport_options["socket_timeout"] == 2


def test_what_else_a_url_says_stays(made):
    connection = made("redis+socket:///tmp/r.sock?socket_timeout=2&virtual_host=3", backend=URL).connection_for_read()
    assert connection.hostname == "socket:///tmp/r.sock?virtual_host=3"
    assert made("rediss://a?ssl_cert_reqs=none", backend=URL).connection_for_read().ssl


@pytest.mark.parametrize("option", _KOMBUS_URL_OPTIONS)
def test_an_option_that_kombu_reads_is_left_to_kombu(made, option):
    url = f"{URL}/0?{option}=1"
    assert KombuConnection(url).hostname == made(url, backend=URL).connection_for_read().hostname == "localhost"


@pytest.mark.parametrize("query", ["socket_timeout=soon-secret", "socket_keepalive=secret", "secret=1"])
def test_an_option_of_a_url_that_cannot_be_read_is_an_error_without_its_value(made, query):
    with pytest.raises(ImproperlyConfigured) as caught:
        made(f"{URL}?{query}", backend=URL).connection_for_read()
    assert "secret" not in str(caught.value)


def test_a_broker_that_is_not_redis_is_left_alone(made):
    assert not made("memory://", backend=URL).connection_for_read().transport_options


def test_a_backend_on_a_socket_of_this_machine_has_no_keepalive(made):
    options = of_backend(made("redis+socket:///tmp/r.sock"))
    assert options["socket_timeout"] == 7
    assert "socket_keepalive" not in options


def test_the_sentinels_of_a_backend_are_bounded_too(made):
    app = made(
        "sentinel://localhost:1",
        result_backend_transport_options={"master_name": "m", "sentinel_kwargs": {"password": "x"}},
    )
    assert app.backend._transport_options == {
        "master_name": "m",
        "sentinel_kwargs": {"password": "x", "socket_timeout": 7, "socket_connect_timeout": 7},
    }


def test_a_client_that_reads_a_result_does_not_retry_without_end(made):
    assert made().backend.always_retry is False
