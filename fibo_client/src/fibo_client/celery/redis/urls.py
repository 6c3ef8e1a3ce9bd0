"""Read the URLs of Redis servers, spelled as for Celery. No I/O.

A malformed URL may hold a piece of its password anywhere (``redis://:pa/ss@host`` has the port "pa"), so no error shows
a user name, a password, a host or a path. Errors are raised outside of ``except`` blocks, or their context would show
the text.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from urllib.parse import unquote

from fibo_client.errors import ConfigError
from fibo_client.telemetry.tracer import Server

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fibo_client.celery.redis.options import RedisOptions

__all__ = ["SCHEMES", "RedisAddress", "TLSOptions", "means_redis", "parse_url"]

CertReqs = Literal["required", "optional", "none"]
Role = Literal["broker_url", "result_backend"]

_DEFAULT_HOST: Final = "localhost"
_DEFAULT_PORT: Final = 6379
_DEFAULT_SENTINEL_PORTS: Final[Mapping[Role, int]] = {"broker_url": 26379, "result_backend": 6379}
"""Celery's broker and its result backend take different ones."""
_MOST_PORT: Final = 65_535
_MOST_DB: Final = 2**31 - 1
_LONGEST_HOST: Final = 253

SCHEMES: Final = ("redis", "rediss", "redis+socket", "sentinel")
_SUPPORTED: Final = "redis://, rediss://, redis+socket:// or sentinel://"
_BEGIN: Final = f"it must begin with {_SUPPORTED}, as in redis://localhost:6379/0"
_TLS: Final = "with TLS it is rediss://, with two s"
_ENCODE: Final = (
    "In a user name, a password or a path, special characters must be percent-encoded: "
    "'@' as %40, '/' as %2F, ':' as %3A, '?' as %3F, '#' as %23, ';' as %3B, '%' as %25"
)

_ALIKE: Final = 0.75
"""The similarity, 0 to 1, from which an unknown scheme counts as a misspelled one of Redis."""

_NO_CLUSTER: Final = "Redis Cluster is not supported, neither here nor by Celery; use a single Redis or sentinel://"
_SAY_SOCKET: Final = "a Unix socket is spelled redis+socket:///path/to/redis.sock, as in Celery"
_REDIS_ONLY: Final = f"of Celery's transports and result backends only Redis is supported: use {_SUPPORTED}"
_MEANT: Final[Mapping[str, str]] = {
    "unix": _SAY_SOCKET,
    "socket": _SAY_SOCKET,
    **dict.fromkeys(("redis+tls", "redis+ssl", "redis-tls", "rediss+tls", "tls", "ssl"), _TLS),
    "rediss+socket": f"a Unix socket has no TLS; {_SAY_SOCKET}",
}
_REFUSED: Final[Mapping[str, str]] = {
    "rediscluster": _NO_CLUSTER,
    "redis+cluster": _NO_CLUSTER,
    **_MEANT,
    **dict.fromkeys(("amqp", "amqps", "pyamqp", "librabbitmq", "sqs", "memory", "rpc", "cache", "file"), _REDIS_ONLY),
}
_REFUSED_PREFIXES: Final = ("db+", "cache+", "sqla+")

_SENTINELS: Final = "sentinel://host:26379/0;sentinel://host:26379/0"

_HARMLESS_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,19}")
_HARMLESS_OPTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_NOT_IN_A_HOST: Final = re.compile(r"[\s/\\?#@;:%\[\],'\"<>{}$]")

_VARIABLES: Final[Mapping[Role, str]] = {"broker_url": "CELERY_BROKER_URL", "result_backend": "CELERY_RESULT_BACKEND"}

_CERT_REQS: Final[Mapping[str, CertReqs]] = {
    "CERT_REQUIRED": "required",
    "CERT_OPTIONAL": "optional",
    "CERT_NONE": "none",
    "required": "required",
    "optional": "optional",
    "none": "none",
}
_TRUTH: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no"), False),
}
_TLS_OPTIONS: Final = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_NO_TLS: Final[Mapping[str, str]] = {
    "redis": "is about TLS, which needs the scheme rediss://",
    "redis+socket": "is about TLS, which a Unix socket does not have",
}
_FOR_BOTH: Final = "RedisOptions are for both URLs: where one alone has TLS, put ssl_* into it, behind a '?'"
_SETTING_INSTEAD: Final = "is not an option of the URL, but one of redis=RedisOptions(...)"
_CELERYS_OWN: Final = (
    "client_name",
    "health_check_interval",
    "max_connections",
    "protocol",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_read_size",
    "socket_timeout",
    "timeout",
)
"""Options of Celery's own connections, which are ignored in the URL of a result backend."""
_IO_TIMEOUT: Final = "is not an option of the URL: the setting io_timeout says how long a command or a connect may take"
_BEFORE_HOST: Final = "is not an option of the URL: user name and password stand before the host, as user:password@host"
_OPTION_WORDS: Final[Mapping[str, str]] = {
    "socket_timeout": _IO_TIMEOUT,
    "socket_connect_timeout": _IO_TIMEOUT,
    "max_connections": _SETTING_INSTEAD,
    "master_name": _SETTING_INSTEAD,
    "global_keyprefix": "is not an option of the URL: say broker_prefix and result_prefix in redis=RedisOptions(...)",
    "username": _BEFORE_HOST,
    "password": _BEFORE_HOST,
    "credential_provider": "is refused: nothing is imported because a URL says so; "
    "put the user name and the password into the URL",
    "virtual_host": "is for redis+socket:// only; the database stands in the path, as in redis://localhost:6379/3",
    "db": "is ignored by Celery's broker on a Unix socket: its workers would read database 0; "
    "write virtual_host, which works everywhere",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TLSOptions:
    """How a TLS connection checks the server and shows itself.

    Attributes:
        cert_reqs: Whether the server's certificate is checked.
        ca_certs: A file of certificate authorities. None is the system's.
        certfile: The client's certificate.
        keyfile: The key of the client's certificate.
        check_hostname: Whether the certificate must be for the server's host name.
    """

    cert_reqs: CertReqs = "required"
    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    check_hostname: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisAddress:
    """A database on a Redis server, and the user who connects to it. Equal addresses can share connections.

    Its repr does not show the password, its text neither the password nor the user name.

    Attributes:
        kind: ``tcp``, ``unix`` or ``sentinel``; says which of the next four are filled.
        host: The host (tcp), in lower case; an IPv6 address without brackets.
        port: The port (tcp).
        path: The socket's path (unix).
        hosts: The hosts and ports of the Sentinels (sentinel).
        db: The number of the database.
        username: The user name for Redis itself, not for the Sentinels.
        password: The password for Redis itself, not for the Sentinels.
        ssl: How to speak TLS (tcp, sentinel: with Redis and the Sentinels alike). None is no TLS.
        master_name: The name of the master that the Sentinels watch (sentinel).
    """

    kind: Literal["tcp", "unix", "sentinel"]
    host: str = ""
    port: int = 0
    path: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl: TLSOptions | None = None
    master_name: str | None = None

    @property
    def server(self) -> Server:
        """The server, for telemetry. The address of a Sentinels' master is not known before a connection."""
        if self.kind == "sentinel":
            return Server("redis")
        return Server("redis", self.path) if self.kind == "unix" else Server("redis", self.host, self.port)

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"redis+socket://{self.path} (db {self.db})"
        if self.kind == "sentinel":
            sentinels = ";".join(f"sentinel://{_host_and_port(host, port)}/{self.db}" for host, port in self.hosts)
            tls = ", TLS" if self.ssl else ""
            return f"{sentinels} (master {self.master_name}{tls})"
        return f"{'rediss' if self.ssl else 'redis'}://{_host_and_port(self.host, self.port)}/{self.db}"


def parse_url(url: str, redis: RedisOptions, *, role: Role) -> RedisAddress:
    """Read the URL of a broker or of a result backend.

    Args:
        url: The URL, spelled as for Celery.
        redis: What the URL does not say: ``master_name`` and ``ssl_*``.
        role: The setting that the URL comes from; errors name it.

    Returns:
        The address.

    Raises:
        ConfigError: The URL is malformed, unsupported or contradicts itself. The message shows no secret.
    """
    if not isinstance(url, str):
        raise ConfigError(f"{role} must be text, such as redis://localhost:6379/0, not {type(url).__name__}")
    setting = _Setting(role, "@" in url)
    scheme, rest = _split_scheme(url, setting)
    rest = rest.rstrip(";")  # A list made of variables ends so if the last is empty.
    if scheme in _NO_TLS:
        _check_no_tls(scheme, redis, setting)
    if scheme == "sentinel":
        return _sentinel(rest, redis, setting)
    if ";" in rest:
        raise setting.malformed(
            "it has a ';' in it. A list of fail-over servers, as Celery's broker takes it, is not supported: "
            "name one server, or use Redis Sentinel with sentinel://"
        )
    parts = _split(rest, setting)
    return _unix(parts, setting) if scheme == "redis+socket" else _tcp(parts, scheme, redis, setting)


def means_redis(scheme: str) -> bool:
    """Tell whether a scheme is one of Redis, or looks like a misspelled one.

    Args:
        scheme: The scheme, in lower case.

    Returns:
        Whether it is or looks like one.
    """
    return scheme in SCHEMES or scheme in _MEANT or bool(get_close_matches(scheme, SCHEMES, n=1, cutoff=_ALIKE))


class _Setting(NamedTuple):
    """The setting that the URL comes from. Errors are made from this alone."""

    role: Role
    has_at: bool

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self.role} (or {_VARIABLES[self.role]}): {what}")

    def malformed(self, what: str) -> ConfigError:
        """Make an error with the usual cause, a raw special character in the password, if there may be one."""
        return self.error(f"{what}. {_ENCODE}" if self.has_at else what)


class _Parts(NamedTuple):
    """A URL without its scheme. Server, path and query are still percent-encoded."""

    username: str | None
    password: str | None
    has_credentials: bool
    server: str
    path: str
    query: str


def _split_scheme(url: str, setting: _Setting) -> tuple[str, str]:
    if not url:
        raise setting.error(f"it is empty; {_BEGIN}")
    if url[0] in "'\"":
        raise setting.error("it begins with a quotation mark, which does not belong to it; leave it out at both ends")
    if " " in url or not url.isprintable():
        raise setting.malformed("it has a space, a line break or another invisible character in it")
    scheme, mark, rest = url.partition("://")
    scheme = scheme.lower()
    if not mark:
        raise setting.malformed(f"it is not a URL, for it has no '://'; {_BEGIN}")
    if scheme not in SCHEMES:
        raise setting.error(_refuse_scheme(scheme))
    return scheme, rest


def _refuse_scheme(scheme: str) -> str:
    if not _HARMLESS_SCHEME.fullmatch(scheme):
        return _BEGIN
    if scheme.startswith(_REFUSED_PREFIXES):
        return f"{scheme}:// cannot be used: {_REDIS_ONLY}"
    if scheme in _REFUSED:
        return f"{scheme}:// cannot be used: {_REFUSED[scheme]}"
    return f"{scheme}:// is not known; {_BEGIN}"


def _split(rest: str, setting: _Setting) -> _Parts:
    if "#" in rest:
        raise setting.malformed("it has a '#' in it, which has no place in the URL of a Redis")
    end = min((place for place in (rest.find("/"), rest.find("?")) if place >= 0), default=len(rest))
    authority, tail = rest[:end], rest[end:]
    user_info, at, server = authority.rpartition("@")
    # Celery takes the last '@' in user:p@ss@host. A wrong guess would take a piece of the password for a host or an
    # option, which may be shown.
    if "@" in tail or "@" in user_info:
        raise setting.malformed("it has an '@' in it that does not stand right before the host")
    username, _, password = user_info.partition(":")
    path, _, query = tail.partition("?")
    return _Parts(
        username=_decode(username, setting) or None,
        password=_decode(password, setting) or None,
        has_credentials=bool(at),
        server=server,
        path=path,
        query=query,
    )


def _decode(text: str, setting: _Setting) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass  # Its message shows the text, so ours is raised without it as context.
    raise setting.malformed("a percent-encoded character in it is not UTF-8")


def _check_no_tls(scheme: str, redis: RedisOptions, setting: _Setting) -> None:
    for name in _TLS_OPTIONS:
        if getattr(redis, name) is not None:
            raise setting.error(f"{name} in RedisOptions {_NO_TLS[scheme]}. {_FOR_BOTH}")


def _tcp(parts: _Parts, scheme: str, redis: RedisOptions, setting: _Setting) -> RedisAddress:
    host, port = _server(parts.server, setting)
    options = _options(parts.query, scheme, ("db", *_TLS_OPTIONS) if scheme == "rediss" else ("db",), setting)
    return RedisAddress(
        kind="tcp",
        host=host or _DEFAULT_HOST,
        port=port or _DEFAULT_PORT,
        db=_same_db(_path_db(parts.path, setting), options, setting) or 0,
        username=parts.username,
        password=parts.password,
        ssl=_tls(options, redis, setting) if scheme == "rediss" else None,
    )


def _unix(parts: _Parts, setting: _Setting) -> RedisAddress:
    path = _decode(parts.path, setting)
    if parts.server or path in ("", "/") or "\0" in path:
        raise setting.malformed("a Unix socket is spelled redis+socket:///path/to/redis.sock, with three slashes")
    # Celery's result backend takes either name; its broker drops `db` silently, and reads database 0.
    allowed = ("virtual_host",) if setting.role == "broker_url" else ("virtual_host", "db")
    options = _options(parts.query, "redis+socket", allowed, setting)
    return RedisAddress(
        kind="unix",
        path=path,
        db=_same_db(None, options, setting) or 0,
        username=parts.username,
        password=parts.password,
    )


def _sentinel(rest: str, redis: RedisOptions, setting: _Setting) -> RedisAddress:
    chunks = list(filter(None, rest.split(";"))) or [""]
    sentinels = [_split_sentinel(chunk, setting, first=index == 0) for index, chunk in enumerate(chunks)]
    hosts: list[tuple[str, int]] = []
    dbs: list[int] = []
    tls: list[dict[str, str]] = []
    for parts in sentinels:
        host, port = _server(parts.server, setting)
        if not host and len(sentinels) > 1:
            raise setting.malformed(f"a Sentinel in it has no host; write {_SENTINELS}")
        options = _options(parts.query, "sentinel", ("db", *_TLS_OPTIONS), setting)
        db = _same_db(_path_db(parts.path, setting), options, setting)
        said: dict[str, str] = {name: options[name] for name in _TLS_OPTIONS if name in options}
        tls += [said] if said else []
        hosts.append((host or _DEFAULT_HOST, port or _DEFAULT_SENTINEL_PORTS[setting.role]))
        dbs.append(db or 0)
    if not isinstance(redis.master_name, str) or not redis.master_name:
        raise setting.error(
            "sentinel:// needs the name of the master that Sentinel watches: redis=RedisOptions(master_name=...)"
        )
    if any(said != tls[0] for said in tls):
        raise setting.error("its Sentinels have different ssl_* options; say them once")
    # There is no scheme for Sentinel with TLS, so any ssl_* option means TLS.
    wants_tls = bool(tls) or any(getattr(redis, name) is not None for name in _TLS_OPTIONS)
    # Celery, too, takes the database from the first, whatever the others say.
    first = sentinels[0]
    return RedisAddress(
        kind="sentinel",
        hosts=tuple(hosts),
        db=dbs[0],
        username=first.username,
        password=first.password,
        ssl=_tls(tls[0] if tls else {}, redis, setting) if wants_tls else None,
        master_name=redis.master_name,
    )


def _split_sentinel(chunk: str, setting: _Setting, *, first: bool) -> _Parts:
    scheme, mark, rest = chunk.partition("://")
    if mark and (first or scheme.lower() != "sentinel"):
        raise setting.malformed(f"every address in a list of Sentinels must begin with sentinel://: {_SENTINELS}")
    parts = _split(rest if mark else chunk, setting)
    if parts.has_credentials and not first and not mark:
        # sentinel://user:12;34@host: the second half of a password would pass for a user name.
        raise setting.malformed("behind a ';', an address with a user name or a password must begin with sentinel://")
    return parts


def _server(text: str, setting: _Setting) -> tuple[str, int | None]:
    """Read ``host:port``, either of which may be missing."""
    if text.startswith("["):
        inner, closing, tail = text[1:].partition("]")
        host = _decode(inner, setting)
        if not closing or not (tail == "" or tail.startswith(":")) or not _is_ipv6(host):
            raise setting.malformed("what stands in brackets must be an IPv6 address, as in redis://[::1]:6379/0")
        address, percent, zone = host.partition("%")
        return f"{address.lower()}{percent}{zone}", _port(tail[1:], setting)
    name, _, port = text.partition(":")
    if ":" in port:
        raise setting.malformed(
            "there is more than one ':' behind host; an IPv6 address is put in brackets: [::1]:6379"
        )
    host = _decode(name, setting).lower()
    number = _port(port, setting)
    if host and not _is_host(host):
        raise setting.malformed("its host is not a host name; there is one host in it, as in redis://localhost:6379/0")
    return host, number


def _port(text: str, setting: _Setting) -> int | None:
    if not text:
        return None
    number = _number(text)
    if number is None or not 1 <= number <= _MOST_PORT:
        raise setting.malformed(f"its port must be a number from 1 to {_MOST_PORT}; Redis has 6379 by default")
    return number


def _number(text: str) -> int | None:
    # Checked by hand: int() also takes signs, underscores and other scripts, and its error shows the text.
    return int(text) if _DIGITS.fullmatch(text) else None


def _is_ipv6(text: str) -> bool:
    address, percent, zone = text.partition("%")
    if percent and (not zone.isprintable() or _NOT_IN_A_HOST.search(zone)):
        return False
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return bool(address)


def _is_host(text: str) -> bool:
    if len(text) > _LONGEST_HOST or not text.isprintable() or _NOT_IN_A_HOST.search(text):
        return False
    try:
        # As getaddrinfo does, whose UnicodeError would come in the middle of a connect.
        encoded = text.encode("idna").decode("ascii")
    except UnicodeError:
        return False
    return not _NOT_IN_A_HOST.search(encoded)  # Compatibility characters become plain ones: U+2100 is "a/c".


def _path_db(path: str, setting: _Setting) -> int | None:
    text = _decode(path, setting).strip("/")  # Celery's own tests, and old settings, have redis://host//1.
    return _db(text, "its path", setting) if text else None


def _db(text: str, where: str, setting: _Setting) -> int:
    number = _number(text)
    if number is None or number > _MOST_DB:
        raise setting.malformed(f"{where} must be the number of a database, such as 0 in redis://localhost:6379/0")
    return number


def _same_db(path_db: int | None, options: Mapping[str, str], setting: _Setting) -> int | None:
    """Return the database that path and options agree on, or None if they name none."""
    said = {} if path_db is None else {"the path": path_db}
    said |= {name: _db(options[name].strip("/"), name, setting) for name in ("virtual_host", "db") if name in options}
    if len(set(said.values())) > 1:
        raise setting.error(f"{' and '.join(said)} name different databases; say it once")
    return next(iter(said.values()), None)


def _options(query: str, scheme: str, allowed: Collection[str], setting: _Setting) -> dict[str, str]:
    options: dict[str, str] = {}
    for piece in filter(None, query.split("&")):
        name, _, value = (_decode(part.replace("+", " "), setting) for part in piece.partition("="))
        if name in _CELERYS_OWN and setting.role == "result_backend":
            continue
        if name not in allowed:
            raise setting.error(_refuse_option(name, scheme, allowed))
        if name in options:
            raise setting.error(f"the option {name} is given twice")
        if not value:
            raise setting.error(f"the option {name} has no value")
        options[name] = value
    return options


def _refuse_option(name: str, scheme: str, allowed: Collection[str]) -> str:
    known = f"with {scheme}:// the URL may say: {', '.join(allowed)}"
    if not _HARMLESS_OPTION.fullmatch(name):
        return f"an option in it is not known; {known}"
    if name.startswith("ssl_") and scheme in _NO_TLS:
        return f"the option {name} {_NO_TLS[scheme]}"
    if name in _OPTION_WORDS:
        return f"the option {name} {_OPTION_WORDS[name]}"
    return f"the option {name} is not known; {known}"


def _tls(options: Mapping[str, str], redis: RedisOptions, setting: _Setting) -> TLSOptions:
    cert_reqs = _cert_reqs(options.get("ssl_cert_reqs", redis.ssl_cert_reqs), setting)
    certfile = _file("ssl_certfile", options.get("ssl_certfile", redis.ssl_certfile), setting)
    keyfile = _file("ssl_keyfile", options.get("ssl_keyfile", redis.ssl_keyfile), setting)
    check_hostname = _truth(options.get("ssl_check_hostname", redis.ssl_check_hostname), setting)
    if keyfile and not certfile:
        raise setting.error("ssl_keyfile is the key of a certificate: ssl_certfile is needed too")
    if check_hostname and cert_reqs == "none":
        raise setting.error("ssl_check_hostname needs certificates that are checked, but ssl_cert_reqs is none")
    return TLSOptions(
        cert_reqs=cert_reqs,
        ca_certs=_file("ssl_ca_certs", options.get("ssl_ca_certs", redis.ssl_ca_certs), setting),
        certfile=certfile,
        keyfile=keyfile,
        check_hostname=cert_reqs != "none" if check_hostname is None else check_hostname,
    )


def _cert_reqs(value: object, setting: _Setting) -> CertReqs:
    if value is None:
        return "required"
    if isinstance(value, int) and not isinstance(value, bool) and value in list(ssl.VerifyMode):
        value = ssl.VerifyMode(value).name
    if not isinstance(value, str) or value not in _CERT_REQS:
        raise setting.error("ssl_cert_reqs, in the URL or in RedisOptions, must be required, optional or none")
    return _CERT_REQS[value]


def _file(name: str, value: object, setting: _Setting) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise setting.error(f"{name}, in the URL or in RedisOptions, must be the path of a file, as text")
    return value


def _truth(value: object, setting: _Setting) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in _TRUTH:
        raise setting.error("ssl_check_hostname must be true or false in the URL, True or False in RedisOptions")
    return _TRUTH[value.lower()]


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
