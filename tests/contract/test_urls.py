"""A URL means the same server, database and user here as to kombu's transport and to Celery's result backend.

The table has the URLs and options of their own unit tests, and more. What differs stands in it with its reason.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import celery
import kombu
import pytest
import redis as redis_py
from kombu.transport.redis import SentinelChannel

from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.redis.urls import parse_url
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

BROKER, BACKEND = ROLES = ("broker_url", "result_backend")
MASTER = "mymaster"

Outcome = dict[str, Any]
"""What a URL means, field by field; or ``{"refused": True}``."""


@dataclass(frozen=True)
class Row:
    """A URL with the options beside it.

    Attributes:
        url: The URL.
        tls: What Celery takes as ``broker_use_ssl`` and ``redis_backend_use_ssl``, and this client as `RedisOptions`.
        conf: More of Celery's settings, which this client has not.
        differs: In which role which fields differ: what it is here, and what it is to Celery.
        because: Why.
    """

    url: str
    tls: Mapping[str, Any] = field(default_factory=dict)
    conf: Mapping[str, Any] = field(default_factory=dict)
    differs: Mapping[str, Mapping[str, tuple[Any, Any]]] = field(default_factory=dict)
    because: str = ""

    def __str__(self) -> str:
        return "-".join([self.url.replace("/", "|"), *map(str, self.tls.values()), *map(str, self.conf.values())])


def only_here(*roles: str) -> dict[str, dict[str, tuple[bool, bool]]]:
    """Read here, and refused by Celery."""
    return {role: {"refused": (False, True)} for role in roles}


def only_there(*roles: str) -> dict[str, dict[str, tuple[bool, bool]]]:
    """Refused here, and read by Celery."""
    return {role: {"refused": (True, False)} for role in roles}


FILES = {"ssl_ca_certs": "/ca.crt", "ssl_certfile": "/client.crt", "ssl_keyfile": "/client.key"}
QUERY = "ssl_ca_certs=%2Fvar%2Fca.pem&ssl_certfile=%2Fvar%2Fcert.pem&ssl_keyfile=%2Fvar%2Fkey.pem"

LOCAL = "two names of this machine; here they are one, so that both roles can share connections"
CHECKED = "a certificate is checked unless somebody says that it shall not be; kombu checks none, and Celery asks"
SAY_TLS = "TLS has the scheme rediss://; a setting that is dropped, or a scheme that lies, is plaintext one day"
NO_IMPORT = "nothing is imported because a URL says so"
OWN_CONNECTIONS = "it is about Celery's own connections, and kombu refuses it; here the setting is io_timeout"
SPELLED_OUT = "Celery asks only those that begin with sentinel://, or nonsense; here all that are named are asked"
NO_EMPTY = "Celery's result backend takes the nothing behind the last ';' for a Sentinel on localhost"
LENIENT = "what is meant is plain, and wrong is only how many slashes there are"
TLS_TO_ALL = "the Sentinels are spoken to as Redis is; Celery speaks plaintext to them, but for its sentinel_kwargs"
NO_LIST = "a list of servers without Sentinels is no fail-over of Redis: a message may be sent to one that nobody reads"
URL_ONLY = "user and password stand in the URL"

TABLE = [
    # What is in kombu's own test_redis.py, test_url.py and test_connection.py
    Row("redis://", differs={BROKER: {"host": ("localhost", "127.0.0.1")}}, because=LOCAL),
    Row("redis://localhost/0"),
    Row("redis:///foo"),
    Row("redis:///1", differs={BROKER: {"host": ("localhost", "127.0.0.1")}}, because=LOCAL),
    Row("redis://h/dwqeq"),
    Row("redis://h/123"),
    Row("redis://h//123"),
    Row("redis://foo:bar@127.0.0.1:6379/0"),
    Row("redis://kombu@george.vandelay.com"),
    Row("redis://example.com//3"),
    *(
        Row(
            f"redis://foo:bar@127.0.0.1:6379/0?credential_provider={provider}",
            differs=only_there(*ROLES) if provider == "redis.CredentialProvider" else {},
            because=NO_IMPORT,
        )
        for provider in ("redis.CredentialProvider", "nonexit.CredentialProvider", "abc.ABC")
    ),
    Row("redis+socket:///tmp/redis.sock"),
    Row("redis+socket:///var/spool/x/y/z/redis.sock"),
    Row("redis+socket://:foo@/var/run/redis.sock"),
    Row("redis+socket://@/var/run/redis.sock"),
    Row("redis://", tls={"ssl_cert_reqs": 2, **FILES}, differs=only_there(*ROLES), because=SAY_TLS),
    Row("redis://", tls={"ssl_cert_reqs": 2}, differs=only_there(*ROLES), because=SAY_TLS),
    Row(
        "rediss://",
        differs={
            BROKER: {
                "host": ("localhost", "127.0.0.1"),
                "tls": ("CERT_REQUIRED", "CERT_NONE"),
                "check_hostname": (True, False),
            },
            **only_here(BACKEND),
        },
        because=f"{LOCAL}; {CHECKED}",
    ),
    Row("rediss://user:password@host:6379/0?ssl_check_hostname=on&ssl_cert_reqs=required"),
    Row(f"rediss://user:password@host:6379/0?ssl_cert_reqs=required&{QUERY}&ssl_check_hostname=false"),
    *(
        Row(f"rediss://h?ssl_cert_reqs={mode}")
        for mode in ("CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", "required", "optional", "none", "badvalue")
    ),
    Row("sentinel://localhost:65534/"),
    Row("sentinel://localhost:65532/1"),
    Row(
        "sentinel://localhost/;sentinel://localhost:65532/;sentinel://user@localhost:65533/;"
        "sentinel://:password@localhost:65534/;sentinel://user:password@localhost:65535/;",
        differs={
            BACKEND: {
                "sentinels": (
                    [("localhost", 6379), *(("localhost", port) for port in range(65532, 65536))],
                    [("localhost", 6379), *(("localhost", port) for port in range(65532, 65536)), ("localhost", 6379)],
                )
            }
        },
        because=NO_EMPTY,
    ),
    Row("sentinel://myuser:mypassword@localhost:65532/"),
    Row("sentinel://:mypassword@localhost:65532/"),
    Row(
        "sentinel://",
        tls={"ssl_cert_reqs": 2, **FILES},
        differs={
            BROKER: {"sentinels": ([("localhost", 26379)], [("127.0.0.1", 26379)]), "sentinels_tls": (True, False)},
            BACKEND: {"sentinels_tls": (True, False)},
        },
        because=f"{LOCAL}; {TLS_TO_ALL}",
    ),
    # What is in Celery's own test_redis.py
    Row("redis://:bosco@vandelay.com:123//1"),
    Row("redis://username:bosco@vandelay.com:123//1"),
    Row("redis://vandelay.com:123//1", conf={"redis_client_name": "celery-worker"}),
    Row("redis://vandelay.com:123//1", conf={"redis_backend_health_check_interval": 10}),
    *(
        Row(
            f"redis://{who}@vandelay.com:123/1?credential_provider={provider}",
            differs=only_there(*ROLES) if there else {},
            because=NO_IMPORT,
        )
        for who, provider, there in (
            (":bosco", "redis.CredentialProvider", True),
            ("", "redis.UsernamePasswordCredentialProvider", True),
            ("", "not_exist.CredentialProvider", False),
            ("", "abc.ABC", False),
        )
    ),
    Row("redis://:bosco@vandelay.com:123//1?socket_timeout=30&socket_connect_timeout=100"),
    Row("redis+socket:///tmp/redis.sock?virtual_host=/3", conf={"redis_socket_timeout": 30.0}),
    Row("socket:///tmp/redis.sock?virtual_host=/3"),
    *(
        Row(
            "rediss://:bosco@vandelay.com:123//1",
            tls={"ssl_cert_reqs": mode, **FILES},
        )
        for mode in (ssl.CERT_REQUIRED, "required", "CERT_REQUIRED")
    ),
    Row(
        "redis://:bosco@vandelay.com:123//1",
        tls={"ssl_cert_reqs": ssl.CERT_REQUIRED, **FILES},
        differs=only_there(*ROLES),
        because=SAY_TLS,
    ),
    *(
        Row(f"rediss://:bosco@vandelay.com:123//1?ssl_cert_reqs={mode}{more}")
        for mode in ("required", "CERT_REQUIRED", "none", "CERT_NONE", "optional", "CERT_OPTIONAL", "CERT_KITTY_CATS")
        for more in ("", f"&{QUERY}")
    ),
    Row(
        "rediss://:bosco@vandelay.com:123//1",
        differs={
            BROKER: {"tls": ("CERT_REQUIRED", "CERT_NONE"), "check_hostname": (True, False)},
            **only_here(BACKEND),
        },
        because=CHECKED,
    ),
    Row(
        "redis://:bosco@vandelay.com:123//1?ssl_cert_reqs=required",
        differs=only_there(BROKER),
        because=SAY_TLS,
    ),
    Row(
        "redis",
        conf={"redis_username": "username", "redis_password": "password"},
        differs=only_there(BACKEND),
        because=URL_ONLY,
    ),
    Row("sentinel://:test@github.com:123/1;sentinel://:test@github.com:124/1"),
    Row("sentinel://myuser:mypass@github.com:123/1;sentinel://myuser:mypass@github.com:124/1"),
    Row("sentinel://:mypass@github.com:123/1"),
    Row(
        "sentinel://:bosco@vandelay.com:123//1",
        tls={"ssl_cert_reqs": "CERT_REQUIRED", **FILES},
        differs={role: {"sentinels_tls": (True, False)} for role in ROLES},
        because=TLS_TO_ALL,
    ),
    # Their documentation
    Row("redis://localhost:6379/"),
    Row("redis://:password@hostname:6379/12"),
    Row("redis://username:password@host:6379/12"),
    Row("rediss://username:password@host:6379/12?ssl_cert_reqs=required"),
    Row("redis+socket:///path/to/redis.sock?virtual_host=12"),
    Row("sentinel://localhost:26379;sentinel://localhost:26380;sentinel://localhost:26381"),
    Row("sentinel://0.0.0.0:26347/3;sentinel://0.0.0.0:26348/3"),
    Row("sentinel://0.0.0.0:26379"),
    # Lists of Sentinels, as people write them
    Row("sentinel://:pw@h1:26379;sentinel://:pw@h2:26379/1"),
    Row("sentinel://h1:26379/1;sentinel://:pw@h2:26379"),
    Row("sentinel://u:p@h1:26379/1;sentinel://v:q@h2:26379/2"),
    Row("sentinel://h1/1;sentinel://h2/1"),
    Row("sentinel://h1//1;sentinel://h2//1"),
    Row(
        "sentinel://h1:1/1;",
        differs={BACKEND: {"sentinels": ([("h1", 1)], [("h1", 1), ("localhost", 6379)])}},
        because=NO_EMPTY,
    ),
    Row(
        "sentinel://a:1;b:2/3",
        differs={
            BROKER: {"sentinels": ([("a", 1), ("b", 2)], [("a", 1)])},
            BACKEND: {"sentinels": ([("a", 1), ("b", 2)], [("a", 1), ("3", 6379)])},
        },
        because=SPELLED_OUT,
    ),
    Row("sentinel://a:1;redis://b:2", differs=only_there(*ROLES), because=SPELLED_OUT),
    Row(
        "sentinel://a:1/0?ssl_cert_reqs=required",
        differs={
            BROKER: {"sentinels_tls": (True, False)},
            BACKEND: {
                "tls": ("CERT_REQUIRED", None),
                "check_hostname": (True, None),
                "sentinels_tls": (True, False),
            },
        },
        because=f"{TLS_TO_ALL}; Celery's result backend keeps the option, and fails when it connects",
    ),
    # Everything else that a URL can say
    Row("redis://h//", differs=only_here(BACKEND), because=LENIENT),
    Row("redis://h/1/", differs=only_here(BROKER), because=LENIENT),
    Row("redis://h/0;"),
    Row("redis://a/1;redis://b/1", differs=only_there(BROKER), because=NO_LIST),
    Row("redis://h?db=3", differs=only_here(BROKER), because="where it is read, it is read as Celery reads it"),
    Row("redis://h?max_connections=3&retry_on_timeout=true"),
    Row(
        "redis+socket:///s?db=3", differs=only_there(BROKER), because="kombu drops it in silence, and reads database 0"
    ),
    Row("redis+socket:///s?socket_timeout=3", differs=only_there(BROKER), because=OWN_CONNECTIONS),
    *map(
        Row,
        [
            "redis://localhost",
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
            "redis://h/5/6",
            "rediss://u:p@h:6380/2?ssl_cert_reqs=required&ssl_ca_certs=%2Fca%2Bs.pem&ssl_certfile=/c+d.pem",
            "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false",
            "redis+socket://u:p%40@/run/a%20b.sock?virtual_host=3",
            "sentinel://u:p%40@a:26379/3;sentinel://b:26380/3",
        ],
    ),
]


# What it is to Celery


def mode(value: Any) -> str:
    """The name of a way to check certificates, of which there are several spellings."""
    named = {each.name: each for each in ssl.VerifyMode} | {each.name[5:].lower(): each for each in ssl.VerifyMode}
    return named[value].name if isinstance(value, str) else ssl.VerifyMode(value).name


def told(connection_class: type, options: Mapping[str, Any]) -> Outcome:
    """What redis-py would connect to."""
    names = ("host", "port", "path", "db", "username", "password")
    outcome = {name: options[name] for name in names if options.get(name) is not None}
    if issubclass(connection_class, redis_py.SSLConnection):
        outcome["tls"] = mode(options["ssl_cert_reqs"])
        # As redis-py has it where nobody says.
        outcome["check_hostname"] = options.get("ssl_check_hostname", outcome["tls"] != "CERT_NONE")
        outcome |= {name: options[name] for name in FILES if options.get(name) is not None}
    return outcome


def told_by_sentinels(pool: Any) -> Outcome:
    """What redis-py's pool would ask the Sentinels for."""
    asked = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
    return {
        **told(pool.connection_class, pool.connection_kwargs),
        "master": pool.service_name,
        "sentinels": [(each.connection_kwargs["host"], each.connection_kwargs["port"]) for each in asked],
        "sentinels_tls": any(issubclass(each.connection_class, redis_py.SSLConnection) for each in asked),
    }


def kombus(app: celery.Celery) -> Outcome:
    """Where Celery would send tasks."""
    connection = app.connection_for_write()
    kind = connection.transport.Channel
    channel = kind.__new__(kind)  # Its __init__ connects.
    channel.connection = connection.transport
    channel.connection.cycle.poller.close()  # Only a garbage collection would.
    for name in kind.from_transport_options:
        if name in connection.transport_options:
            setattr(channel, name, connection.transport_options[name])
    if issubclass(kind, SentinelChannel):
        return told_by_sentinels(channel._sentinel_managed_pool())
    options = channel._connparams()
    return told(options["connection_class"], options)


def celerys(app: celery.Celery) -> Outcome:
    """Where Celery would look for results."""
    options = app.backend.connparams
    if "hosts" in options:
        return told_by_sentinels(app.backend._get_pool(**options))
    return told(options.get("connection_class", redis_py.Connection), options)


def theirs(row: Row, role: str) -> Outcome:
    conf = {
        "broker_transport_options": {"master_name": MASTER},
        "result_backend_transport_options": {"master_name": MASTER},
        **({"broker_use_ssl": row.tls, "redis_backend_use_ssl": row.tls} if row.tls else {}),
        **row.conf,
    }
    urls = {"broker": row.url} if role == BROKER else {"backend": row.url}
    with celery.Celery("contract", set_as_current=False, **urls) as app:
        app.conf.update(conf)
        try:
            return kombus(app) if role == BROKER else celerys(app)
        except Exception:  # noqa: BLE001 - Celery has no error of its own for a URL
            return {"refused": True}


# What it is here


def ours(row: Row, role: str) -> Outcome:
    try:
        address = parse_url(row.url, RedisOptions(master_name=MASTER, **row.tls), role=role)
    except ConfigError:
        return {"refused": True}
    outcome = {
        name: getattr(address, name)
        for name in ("host", "port", "path", "username", "password")
        if getattr(address, name)
    }
    outcome["db"] = address.db
    if address.kind == "sentinel":
        outcome |= {"master": address.master_name, "sentinels": list(address.hosts), "sentinels_tls": bool(address.ssl)}
    if address.ssl is not None:
        outcome |= {"tls": mode(address.ssl.cert_reqs), "check_hostname": address.ssl.check_hostname}
        files = {f"ssl_{name}": getattr(address.ssl, name) for name in ("ca_certs", "certfile", "keyfile")}
        outcome |= {name: path for name, path in files.items() if path is not None}
    return outcome


def difference(here: Outcome, there: Outcome) -> dict[str, tuple[Any, Any]]:
    if "refused" in here or "refused" in there:
        both = ("refused" in here, "refused" in there)
        return {} if both[0] == both[1] else {"refused": both}
    return {name: (here.get(name), there.get(name)) for name in {*here, *there} if here.get(name) != there.get(name)}


@pytest.fixture(autouse=True)
def quiet():
    """kombu and Celery warn of certificates that are not checked."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_url_is_to_this_client_what_it_is_to_celery_but_for_what_the_table_says(row, role):
    assert difference(ours(row, role), theirs(row, role)) == row.differs.get(role, {})


def test_every_difference_has_its_reason():
    assert all(row.because for row in TABLE if row.differs)


def test_kombu_goes_on_with_the_database_of_the_next_sentinel_when_it_cannot_connect():
    connection = kombu.Connection("sentinel://h1:26379/0;sentinel://h2:26379/1")
    assert connection.virtual_host == "0"
    connection.maybe_switch_next()
    assert connection.virtual_host == "1"
