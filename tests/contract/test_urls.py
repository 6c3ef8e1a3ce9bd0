"""A URL means the same server, database and user here as in Celery's transport and result store."""

import celery
import pytest
from celery.app.backends import by_url
from kombu import Connection
from kombu.transport.redis import Channel
from kombu.utils.url import parse_url as kombu_parse_url

from fibo_client.celery.config import CeleryConfig
from fibo_client.celery.transport.redis.urls import parse_url
from fibo_client.errors import ConfigError

CONFIG = CeleryConfig(master_name="mymaster")
ORDINARY = [
    "redis://localhost",
    "redis://localhost:6379",
    "redis://localhost:6379/0",
    "redis://Redis.Example:6380/7",
    "redis://h/",
    "redis://h:/3",
    "redis://h/%33",
    "redis://user@h",
    "redis://user:@h",
    "redis://:pw@h:1/2",
    "redis://:p%40ss@h:1/2",
    "redis://us%2Fer:p%3Aw@h",
    "redis://u:p:w@h",
    "redis://u:100%25%zz+x@h",
    "redis://u:p%23%3F%3B%20@h/4",
    "redis://[::1]:6380/1",
    "redis://u:p@[2001:db8::1]",
    "redis://[fe80::1%25eth0]:1/2",
    "rediss://u:p@h:6380/2?ssl_cert_reqs=required",
]
SOCKETS = [
    "redis+socket:///run/redis.sock",
    "redis+socket:///run/redis.sock?virtual_host=3",
    "redis+socket://:pw@/run/redis.sock?virtual_host=3",
    "redis+socket://u:p%40@/run/a%20b.sock?virtual_host=3",
]
TLS = [
    ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", "required"),
    ("rediss://h?ssl_cert_reqs=CERT_OPTIONAL", "optional"),
    ("rediss://h?ssl_cert_reqs=CERT_NONE", "none"),
    ("rediss://h?ssl_cert_reqs=required&ssl_ca_certs=%2Fca%2Bs.pem&ssl_certfile=/c+d.pem", "required"),
    ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false", "none"),
]


def broker_params(url):
    """The connection parameters that kombu's channel would use for a broker."""
    channel = Channel.__new__(Channel)  # Its __init__ connects.
    channel.connection = type("Transport", (), {"client": Connection(url), "default_port": 6379})
    return channel._connparams()


def backend_params(url):
    """The connection parameters that Celery would use for a result store."""
    backend, url = by_url(url)
    with celery.Celery("contract", set_as_current=False) as app:
        return backend(app=app, url=url).connparams


def ours(url, role):
    address = parse_url(url, CONFIG, role=role)
    return {
        "host": address.host or None,
        "port": address.port or None,
        "path": address.path or None,
        "db": address.db,
        "username": address.username,
        "password": address.password,
    }


def theirs(params):
    return {name: params.get(name) for name in ("host", "port", "path", "db", "username", "password")}


@pytest.mark.parametrize("url", ORDINARY + SOCKETS)
def test_the_broker_is_the_one_that_kombu_connects_to(url):
    assert ours(url, "broker_url") == theirs(broker_params(url))


@pytest.mark.parametrize("url", ORDINARY + SOCKETS)
def test_the_result_backend_is_the_one_that_celery_connects_to(url):
    assert ours(url, "result_backend") == theirs(backend_params(url))


@pytest.mark.parametrize("url", ["redis://h?db=3", "redis://h/3?db=3", "redis+socket:///run/redis.sock?db=3"])
def test_the_option_db_means_what_it_means_to_celerys_result_backend(url):
    assert ours(url, "result_backend")["db"] == theirs(backend_params(url))["db"]


def test_celerys_broker_ignores_the_option_db_on_a_socket_and_this_client_refuses_it():
    url = "redis+socket:///run/redis.sock?db=3"
    assert broker_params(url)["db"] == 0
    with pytest.raises(ConfigError, match="virtual_host"):
        parse_url(url, CONFIG, role="broker_url")


@pytest.mark.parametrize(("url", "cert_reqs"), TLS)
def test_options_about_tls_mean_what_they_mean_to_kombu(url, cert_reqs):
    theirs = kombu_parse_url(url)["ssl"]
    options = parse_url(url, CONFIG, role="broker_url").ssl
    assert theirs["ssl_cert_reqs"].name == f"CERT_{options.cert_reqs.upper()}" == f"CERT_{cert_reqs.upper()}"
    assert options.ca_certs == theirs.get("ssl_ca_certs")
    assert options.certfile == theirs.get("ssl_certfile")
    assert options.check_hostname == theirs.get("ssl_check_hostname", cert_reqs != "none")


def test_sentinels_are_those_that_celery_asks():
    url = "sentinel://u:p%40@a:26379/3;sentinel://b:26380/3"
    address = parse_url(url, CONFIG, role="result_backend")
    params = backend_params(url)
    assert address.hosts == tuple((each["host"], each["port"]) for each in params["hosts"])
    assert address.db == params["db"]
    assert (address.username, address.password) == (params["username"], params["password"])
    assert [parts.split("://")[1].split("@")[-1] for parts in Connection(url).alt] == [
        "a:26379/3",
        "b:26380/3",
    ]
