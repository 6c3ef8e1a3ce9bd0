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
        client_name: What this client takes as `RedisOptions`, and Celery's broker as ``broker_transport_options``.
        differs: In which role which fields differ: what it is here, and what it is to Celery.
        because: Why.
    """

    url: str
    tls: Mapping[str, Any] = field(default_factory=dict)
    conf: Mapping[str, Any] = field(default_factory=dict)
    client_name: str | None = None
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


STARTS = {
    "redis": "redis://h/1?",
    "rediss": "rediss://h/1?ssl_cert_reqs=required&",
    "socket": "redis+socket:///s?virtual_host=1&",
    "sentinel": "sentinel://h:1/1?",
}


def options(*texts: str, on: str, because: str = "", **differs: Mapping[str, tuple[Any, Any]]) -> list[Row]:
    """A row for each option with each of the schemes."""
    of_roles = {role: differs[kind] for role, kind in ((BROKER, "broker"), (BACKEND, "backend")) if kind in differs}
    return [
        Row(f"{STARTS[scheme]}{text}", differs=of_roles, because=because) for scheme in on.split() for text in texts
    ]


HERE, THERE = {"refused": (False, True)}, {"refused": (True, False)}
"""What only this client reads, and what only Celery does."""
FILES = {"ssl_ca_certs": "/ca.crt", "ssl_certfile": "/client.crt", "ssl_keyfile": "/client.key"}
QUERY = "ssl_ca_certs=%2Fvar%2Fca.pem&ssl_certfile=%2Fvar%2Fcert.pem&ssl_keyfile=%2Fvar%2Fkey.pem"

LOCAL = "two names of this machine; here they are one, so that both roles can share connections"
CHECKED = "a certificate is checked unless somebody says that it shall not be; kombu checks none, and Celery asks"
SAY_TLS = "TLS has the scheme rediss://; a setting that is dropped, or a scheme that lies, is plaintext one day"
NO_IMPORT = "nothing is imported because a URL says so"
TIME_LIMIT = "kombu refuses it, or drops it in silence; here the setting is io_timeout"
BOTH_ROLES = "kombu refuses it in the URL of a broker; here a URL means the same in both roles"
TIME_LIMITS_OF_CELERY = "redis-py has no such limit; here all of Celery's limits are passed over"
SENTINELS_DROP = "Celery's result backend drops the options of Sentinels in silence"
IN_ITS_PLACE = "a second place for what the URL says already, or to be dropped in silence"
NO_OCSP = "a check that is asked for and not made is none, and this client has none"
NOTHING_DROPPED = "it does nothing on a socket"
OTHER_BROKERS = "they are kombu's, for other brokers; here a URL means the same in both roles"
NOT_DROPPED = "kombu drops it in silence"
KOMBUS_BOOLEANS = "kombu takes all but 'false' for yes"
KOMBUS_NUMBERS = "kombu keeps it as text, and fails when it connects"
NO_VALKEY = "Celery does not know the schemes of Valkey's own client, which mean a Redis"
SPELLED_OUT = "Celery asks only those that begin with sentinel://, or nonsense; here all that are named are asked"
NO_EMPTY = "Celery's result backend takes the nothing behind the last ';' for a Sentinel on localhost"
LENIENT = "what is meant is plain, and wrong is only how many slashes there are"
TLS_TO_ALL = "the Sentinels are spoken to as Redis is; Celery speaks plaintext to them, but for its sentinel_kwargs"
NO_LIST = "a list of servers without Sentinels is no fail-over of Redis: a message may be sent to one that nobody reads"
URL_ONLY = "user and password stand in the URL"

# Every option that kombu's transport, Celery's result backend or redis-py knows, in both roles
OPTIONS = [
    # Read here
    *options(
        "client_name=x", "protocol=2", "protocol=3", "socket_keepalive=true", "socket_keepalive=0",
        on="redis rediss", broker=HERE, because=BOTH_ROLES,
    ),
    *options("client_name=x", "protocol=2", on="socket"),
    *options(
        "socket_keepalive=true", on="socket", backend=HERE, because=NOTHING_DROPPED
    ),
    *options(
        "client_name=x", on="sentinel", broker=HERE, backend={"client_name": ("x", None)},
        because=f"{BOTH_ROLES}; {SENTINELS_DROP}",
    ),
    *options(
        "protocol=2", on="sentinel", broker=HERE, backend={"protocol": (2, None)},
        because=f"{BOTH_ROLES}; {SENTINELS_DROP}",
    ),
    *options(
        "socket_keepalive=no", on="sentinel", broker=HERE, backend={"keepalive": (False, True)},
        because=f"{BOTH_ROLES}; {SENTINELS_DROP}",
    ),
    *options(
        "ssl_ca_path=/certs", "ssl_ca_data=a%2Bb", "ssl_ciphers=x", "ssl_certfile=/c&ssl_keyfile=/k&ssl_password=x",
        "ssl_check_hostname=true", "ssl_check_hostname=false",
        on="rediss",
    ),
    *options("ssl_check_hostname=0", on="rediss", broker={"check_hostname": (False, True)}, because=KOMBUS_BOOLEANS),
    *options("ssl_min_version=771", on="rediss", broker={"ssl_min_version": (771, "771")}, because=KOMBUS_NUMBERS),
    *options(
        "ssl_include_verify_flags=VERIFY_X509_STRICT", on="rediss",
        broker={"ssl_include_verify_flags": (ssl.VERIFY_X509_STRICT, "VERIFY_X509_STRICT")}, because=KOMBUS_NUMBERS,
    ),
    *options(
        "ssl_exclude_verify_flags=VERIFY_X509_STRICT", on="rediss",
        broker={"ssl_exclude_verify_flags": (ssl.VERIFY_X509_STRICT, "VERIFY_X509_STRICT")}, because=KOMBUS_NUMBERS,
    ),
    *options("username=u", "password=p", "username=u&password=p%2Bw", on="redis rediss sentinel"),
    *options("username=u", "password=p", on="socket", broker=THERE, because=NOT_DROPPED),
    # Passed over here
    *options(
        "decode_responses=1", "encoding=utf-8", "encoding_errors=strict", "health_check_interval=7",
        "legacy_responses=1", "lib_name=x", "lib_version=1", "max_connections=5", "retry_on_error=x",
        "retry_on_timeout=1", "socket_keepalive_options=1", "socket_read_size=100",
        on="redis rediss sentinel", broker=HERE, because=BOTH_ROLES,
    ),
    *options(
        "decode_responses=1", "encoding=utf-8", "encoding_errors=strict", "health_check_interval=7",
        "legacy_responses=1", "lib_name=x", "lib_version=1", "retry_on_error=x", "retry_on_timeout=1",
        on="socket",
    ),
    *options("max_connections=5", "socket_read_size=100", on="socket", broker=HERE, because=BOTH_ROLES),
    *options("socket_keepalive_options=1", on="socket", backend=HERE, because=NOTHING_DROPPED),
    *options(
        "connect_timeout=3", "heartbeat=1", "insist=1", "login_method=x",
        on="redis rediss", backend=HERE, because=OTHER_BROKERS,
    ),
    *options("connect_timeout=3", "heartbeat=1", "insist=1", "login_method=x", on="sentinel"),
    # Limits of time
    *options("socket_timeout=5", "socket_connect_timeout=5", on="redis rediss sentinel"),
    *options("socket_timeout=5", "socket_connect_timeout=5", on="socket", broker=THERE, because=TIME_LIMIT),
    *options("timeout=3", on="redis rediss socket", backend=HERE, because=TIME_LIMITS_OF_CELERY),
    *options("timeout=3", on="sentinel"),
    # Refused here
    *options("host=g", "port=2", on="redis rediss sentinel", backend=THERE, because=IN_ITS_PLACE),
    *options("path=/t", on="socket", broker=THERE, backend=THERE, because=IN_ITS_PLACE),
    *options("virtual_host=1", on="redis rediss sentinel", backend=THERE, because=IN_ITS_PLACE),
    *options(
        "ssl_validate_ocsp=1", "ssl_validate_ocsp_stapled=1", on="rediss", broker=THERE, backend=THERE, because=NO_OCSP
    ),
    *options("ssl_ca_data=x", "ssl_cert_reqs=required", on="redis", broker=THERE, because=SAY_TLS),
    *options("client_name=a%20b", on="redis", backend=THERE, because="Redis refuses it when Celery connects"),
    *options("protocol=4", on="redis"),
    *options("nonsense=1", "visibility_timeout=7", "master_name=m", "global_keyprefix=x", on="redis rediss socket"),
    *options("nonsense=1", on="sentinel", backend=THERE, because=SENTINELS_DROP),
    # In the settings, and beside a URL
    Row("redis://h", conf={"redis_client_name": "x"}, client_name="x"),
    Row("redis://h?client_name=x", client_name="x", differs={BROKER: HERE}, because=BOTH_ROLES),
    Row("valkey://h/1", differs=only_here(*ROLES), because=NO_VALKEY),
    Row("valkeys://h/1?ssl_cert_reqs=required", differs=only_here(*ROLES), because=NO_VALKEY),
    Row("unix:///s"),
    Row("valkey+socket:///s"),
]  # fmt: skip

TABLE = [
    *OPTIONS,
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
    Row("redis://vandelay.com:123//1", conf={"redis_client_name": "celery-worker"}, client_name="celery-worker"),
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
            differs=only_here(BROKER) if mode == "CERT_REQUIRED" else {},
            because="kombu hands the name on to redis-py, which does not know it",
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
    Row("redis://h?max_connections=3&retry_on_timeout=true", differs={BROKER: HERE}, because=BOTH_ROLES),
    Row(
        "redis+socket:///s?db=3", differs=only_there(BROKER), because="kombu drops it in silence, and reads database 0"
    ),
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


FLAGS = ("ssl_include_verify_flags", "ssl_exclude_verify_flags")
MORE_TLS = (*FILES, "ssl_ca_path", "ssl_ca_data", "ssl_password", "ssl_min_version", "ssl_ciphers", *FLAGS)


def told(connection_class: type, options: Mapping[str, Any]) -> Outcome:
    """What redis-py would connect to."""
    names = ("host", "port", "path", "db", "username", "password", "client_name")
    outcome = {name: options[name] for name in names if options.get(name) is not None}
    if options.get("protocol") is not None:
        outcome["protocol"] = int(options["protocol"])
    outcome["keepalive"] = options.get("socket_keepalive") is not False
    if issubclass(connection_class, redis_py.SSLConnection):
        outcome["tls"] = mode(options.get("ssl_cert_reqs", "required"))
        # As redis-py has it where nobody says.
        outcome["check_hostname"] = options.get("ssl_check_hostname", outcome["tls"] != "CERT_NONE")
        outcome |= {name: options[name] for name in MORE_TLS if options.get(name) is not None}
        for name in FLAGS:
            if isinstance(outcome.get(name), list):
                (outcome[name],) = outcome[name]
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
    pool = redis_py.ConnectionPool(**channel._connparams())
    pool.make_connection()
    return told(pool.connection_class, pool.connection_kwargs)


def celerys(app: celery.Celery) -> Outcome:
    """Where Celery would look for results."""
    options = app.backend.connparams
    if "hosts" in options:
        return told_by_sentinels(app.backend._get_pool(**options))
    pool = app.backend.client.connection_pool
    pool.make_connection()
    return told(pool.connection_class, pool.connection_kwargs)


def theirs(row: Row, role: str) -> Outcome:
    conf = {
        "broker_transport_options": {"master_name": MASTER, "client_name": row.client_name},
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
        address = parse_url(
            row.url, RedisOptions(master_name=MASTER, client_name=row.client_name, **row.tls), role=role
        )
    except ConfigError:
        return {"refused": True}
    outcome = {
        name: getattr(address, name)
        for name in ("host", "port", "path", "username", "password", "client_name", "protocol")
        if getattr(address, name)
    }
    outcome |= {"db": address.db, "keepalive": address.keepalive}
    if address.kind == "sentinel":
        outcome |= {"master": address.master_name, "sentinels": list(address.hosts), "sentinels_tls": bool(address.ssl)}
    if address.ssl is not None:
        outcome |= {"tls": mode(address.ssl.cert_reqs), "check_hostname": address.ssl.check_hostname}
        more = {name: getattr(address.ssl, name.removeprefix("ssl_")) for name in MORE_TLS}
        outcome |= {name: value for name, value in more.items() if value is not None}
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
