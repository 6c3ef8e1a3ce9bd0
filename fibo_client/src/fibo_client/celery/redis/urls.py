"""Read the URLs of Redis servers, spelled as for Celery. No I/O.

A malformed URL may hold a piece of its password anywhere (``redis://:pa/ss@host`` has the port "pa"), so no error shows
a user name, a password, a host or a path. Errors are raised outside of ``except`` blocks, or their context would show
the text.
"""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NamedTuple

from fibo_client.celery.redis.address import RedisAddress
from fibo_client.celery.redis.url_options import (
    CONNECTION_OPTIONS,
    NO_TLS,
    SECRETS,
    TLS_OPTIONS,
    URLSetting,
    check_no_tls,
    decode,
    read_connection,
    read_options,
    read_tls,
)
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from fibo_client.celery.redis.address import Role
    from fibo_client.celery.redis.options import RedisOptions

__all__ = ["SCHEMES", "means_redis", "parse_url"]


_DEFAULT_HOST: Final = "localhost"
_DEFAULT_PORT: Final = 6379
_DEFAULT_SENTINEL_PORTS: Final[Mapping[Role, int]] = {"broker_url": 26379, "result_backend": 6379}
"""Celery's broker and its result backend take different ones."""
_MOST_PORT: Final = 65_535
_MOST_DB: Final = 2**31 - 1
_LONGEST_HOST: Final = 253

_ALIASES: Final[Mapping[str, str]] = {"valkey": "redis", "valkeys": "rediss"}
"""Schemes of Valkey's own client. Celery does not know them: its workers take the others."""
SCHEMES: Final = ("redis", "rediss", "redis+socket", "sentinel", *_ALIASES)
_SUPPORTED: Final = "redis://, rediss://, redis+socket:// or sentinel://"
_BEGIN: Final = f"it must begin with {_SUPPORTED}, as in redis://localhost:6379/0"
_TLS: Final = "with TLS it is rediss://, with two s"
_ALIKE: Final = 0.75
"""The similarity, 0 to 1, from which an unknown scheme counts as a misspelled one of Redis."""

_NO_CLUSTER: Final = "Redis Cluster is not supported, neither here nor by Celery; use a single Redis or sentinel://"
_SAY_SOCKET: Final = "a Unix socket is spelled redis+socket:///path/to/redis.sock, as in Celery"
_REDIS_ONLY: Final = f"of Celery's transports and result backends only Redis is supported: use {_SUPPORTED}"
_MEANT: Final[Mapping[str, str]] = {
    "unix": _SAY_SOCKET,
    "socket": _SAY_SOCKET,
    **dict.fromkeys(("redis+tls", "redis+ssl", "redis-tls", "rediss+tls", "tls", "ssl"), _TLS),
    **dict.fromkeys(("valkey+socket", "valkey+unix", "redis+unix"), _SAY_SOCKET),
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
_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_NOT_IN_A_HOST: Final = re.compile(r"[\s/\\?#@;:%\[\],'\"<>{}$]")


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
    setting = URLSetting(role, "@" in url or "password=" in url)
    scheme, rest = _split_scheme(url, setting)
    if "password=" not in rest:
        rest = rest.rstrip(";")  # A list made of variables ends so if the last is empty.
    if scheme in NO_TLS:
        check_no_tls(scheme, redis, setting)
    if scheme == "sentinel":
        return _sentinel(rest, redis, setting)
    if ";" in rest:
        raise setting.malformed(
            "it has a ';' in it. A list of fail-over servers, as Celery's broker takes it, is not supported: "
            "name one server, or use Redis Sentinel with sentinel://"
        )
    parts = _split(rest, setting)
    return _unix(parts, redis, setting) if scheme == "redis+socket" else _tcp(parts, scheme, redis, setting)


def means_redis(scheme: str) -> bool:
    """Tell whether a scheme is one of Redis, or looks like a misspelled one.

    Args:
        scheme: The scheme, in lower case.

    Returns:
        Whether it is or looks like one.
    """
    return scheme in SCHEMES or scheme in _MEANT or bool(get_close_matches(scheme, SCHEMES, n=1, cutoff=_ALIKE))


class _Parts(NamedTuple):
    """A URL without its scheme. Server, path and query are still percent-encoded."""

    username: str | None
    password: str | None
    has_credentials: bool
    server: str
    path: str
    query: str


def _split_scheme(url: str, setting: URLSetting) -> tuple[str, str]:
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
    return _ALIASES.get(scheme, scheme), rest


def _refuse_scheme(scheme: str) -> str:
    if not _HARMLESS_SCHEME.fullmatch(scheme):
        return _BEGIN
    if scheme.startswith(_REFUSED_PREFIXES):
        return f"{scheme}:// cannot be used: {_REDIS_ONLY}"
    if scheme in _REFUSED:
        return f"{scheme}:// cannot be used: {_REFUSED[scheme]}"
    return f"{scheme}:// is not known; {_BEGIN}"


def _split(rest: str, setting: URLSetting) -> _Parts:
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
        username=decode(username, setting) or None,
        password=decode(password, setting) or None,
        has_credentials=bool(at),
        server=server,
        path=path,
        query=query,
    )


def _tcp(parts: _Parts, scheme: str, redis: RedisOptions, setting: URLSetting) -> RedisAddress:
    host, port = _server(parts.server, setting)
    options = read_options(parts.query, scheme, setting)
    return RedisAddress(
        kind="tcp",
        host=host or _DEFAULT_HOST,
        port=port or _DEFAULT_PORT,
        db=_same_db(_path_db(parts.path, setting), options, setting) or 0,
        ssl=read_tls(options, redis, setting) if scheme == "rediss" else None,
        **read_connection(parts.username, parts.password, options, redis, setting),
    )


def _unix(parts: _Parts, redis: RedisOptions, setting: URLSetting) -> RedisAddress:
    path = decode(parts.path, setting)
    if parts.server or path in ("", "/") or "\0" in path:
        raise setting.malformed("a Unix socket is spelled redis+socket:///path/to/redis.sock, with three slashes")
    options = read_options(parts.query, "redis+socket", setting)
    connection = read_connection(parts.username, parts.password, options, redis, setting)
    connection["keepalive"] = True  # There is none on a socket: say what says nothing.
    return RedisAddress(kind="unix", path=path, db=_same_db(None, options, setting) or 0, **connection)


def _sentinel(rest: str, redis: RedisOptions, setting: URLSetting) -> RedisAddress:
    chunks = list(filter(None, rest.split(";"))) or [""]
    sentinels = [_split_sentinel(chunk, setting, first=index == 0) for index, chunk in enumerate(chunks)]
    hosts: list[tuple[str, int]] = []
    every: list[dict[str, str]] = []
    dbs: list[int] = []
    for chunk, parts in zip(chunks, sentinels, strict=True):
        if any(SECRETS & options.keys() for options in every) and "://" not in chunk:
            # sentinel://host?password=12;34: the second half of a password would pass for a host.
            raise setting.malformed("behind a ';' and a password, an address must begin with sentinel://")
        host, port = _server(parts.server, setting)
        if not host and len(sentinels) > 1:
            raise setting.malformed(f"a Sentinel in it has no host; write {_SENTINELS}")
        options = read_options(parts.query, "sentinel", setting)
        hosts.append((host or _DEFAULT_HOST, port or _DEFAULT_SENTINEL_PORTS[setting.role]))
        every.append(options)
        dbs.append(_same_db(_path_db(parts.path, setting), options, setting) or 0)
    if not isinstance(redis.master_name, str) or not redis.master_name:
        raise setting.error(
            "sentinel:// needs the name of the master that Sentinel watches: redis=RedisOptions(master_name=...)"
        )
    # Celery, too, takes the database and the credentials from the first, whatever the others say.
    first = sentinels[0]
    credentials = {name: every[0][name] for name in ("username", "password") if name in every[0]}
    connection = _same_options(every, CONNECTION_OPTIONS, setting) | credentials
    tls = _same_options(every, TLS_OPTIONS, setting)
    # There is no scheme for Sentinel with TLS, so any ssl_* option means TLS.
    wants_tls = bool(tls) or any(getattr(redis, name) is not None for name in TLS_OPTIONS)
    return RedisAddress(
        kind="sentinel",
        hosts=tuple(hosts),
        db=dbs[0],
        ssl=read_tls(tls, redis, setting) if wants_tls else None,
        master_name=redis.master_name,
        **read_connection(first.username, first.password, connection, redis, setting),
    )


def _same_options(every: Iterable[Mapping[str, str]], names: Collection[str], setting: URLSetting) -> dict[str, str]:
    """Return those options that all Sentinels have that have any of them."""
    said = [{name: options[name] for name in names if name in options} for options in every]
    said = [options for options in said if options] or [{}]
    if any(options != said[0] for options in said):
        different = "ssl_* options" if names is TLS_OPTIONS else " or ".join(names)
        raise setting.error(f"its Sentinels have different {different}; say them once")
    return said[0]


def _split_sentinel(chunk: str, setting: URLSetting, *, first: bool) -> _Parts:
    scheme, mark, rest = chunk.partition("://")
    if mark and (first or scheme.lower() != "sentinel"):
        raise setting.malformed(f"every address in a list of Sentinels must begin with sentinel://: {_SENTINELS}")
    parts = _split(rest if mark else chunk, setting)
    if parts.has_credentials and not first and not mark:
        # sentinel://user:12;34@host: the second half of a password would pass for a user name.
        raise setting.malformed("behind a ';', an address with a user name or a password must begin with sentinel://")
    return parts


def _server(text: str, setting: URLSetting) -> tuple[str, int | None]:
    """Read ``host:port``, either of which may be missing."""
    if text.startswith("["):
        inner, closing, tail = text[1:].partition("]")
        host = decode(inner, setting)
        if not closing or not (tail == "" or tail.startswith(":")) or not _is_ipv6(host):
            raise setting.malformed("what stands in brackets must be an IPv6 address, as in redis://[::1]:6379/0")
        address, percent, zone = host.partition("%")
        return f"{address.lower()}{percent}{zone}", _port(tail[1:], setting)
    name, _, port = text.partition(":")
    if ":" in port:
        raise setting.malformed(
            "there is more than one ':' behind host; an IPv6 address is put in brackets: [::1]:6379"
        )
    host = decode(name, setting).lower()
    number = _port(port, setting)
    if host and not _is_host(host):
        raise setting.malformed("its host is not a host name; there is one host in it, as in redis://localhost:6379/0")
    return host, number


def _port(text: str, setting: URLSetting) -> int | None:
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


def _path_db(path: str, setting: URLSetting) -> int | None:
    text = decode(path, setting).strip("/")  # Celery's own tests, and old settings, have redis://host//1.
    return _db(text, "its path", setting) if text else None


def _db(text: str, where: str, setting: URLSetting) -> int:
    number = _number(text)
    if number is None or number > _MOST_DB:
        raise setting.malformed(f"{where} must be the number of a database, such as 0 in redis://localhost:6379/0")
    return number


def _same_db(path_db: int | None, options: Mapping[str, str], setting: URLSetting) -> int | None:
    """Return the database that path and options agree on, or None if they name none."""
    said = {} if path_db is None else {"the path": path_db}
    said |= {name: _db(options[name].strip("/"), name, setting) for name in ("virtual_host", "db") if name in options}
    if len(set(said.values())) > 1:
        raise setting.error(f"{' and '.join(said)} name different databases; say it once")
    return next(iter(said.values()), None)
