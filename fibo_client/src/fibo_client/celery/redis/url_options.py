"""The options behind the '?' of a Redis URL, those of TLS first, and the setting that the URL comes from. No I/O.

No error shows what the URL has: see `fibo_client.celery.redis.urls`.
"""

from __future__ import annotations

import functools
import operator
import re
import ssl
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypedDict, TypeVar
from urllib.parse import unquote

from fibo_client.celery.redis.address import CLIENT_NAME, TLSOptions
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from fibo_client.celery.redis.address import CertReqs, Protocol, Role
    from fibo_client.celery.redis.options import RedisOptions

_T = TypeVar("_T")

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
    **dict.fromkeys(("true", "t", "1", "yes", "y", "on"), True),
    **dict.fromkeys(("false", "f", "0", "no", "n"), False),
}
_TLS_VERSIONS: Final = {int(each): each for each in ssl.TLSVersion if each.name.startswith("TLSv")}
_TLS_VERSIONS_BY_TEXT: Final = {str(number): number for number in _TLS_VERSIONS}
_FLAGS: Final = dict(ssl.VerifyFlags.__members__)
_PROTOCOLS: Final[Mapping[str, Protocol]] = {"2": 2, "3": 3}

TLS_OPTIONS: Final = (
    "ssl_cert_reqs",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
    "ssl_check_hostname",
    "ssl_min_version",
    "ssl_ciphers",
    "ssl_include_verify_flags",
    "ssl_exclude_verify_flags",
)
CONNECTION_OPTIONS: Final = ("client_name", "protocol", "socket_keepalive")
_READ: Final[Mapping[str, tuple[str, ...]]] = {
    "redis": ("db", *CONNECTION_OPTIONS),
    "rediss": ("db", *CONNECTION_OPTIONS, *TLS_OPTIONS),
    "redis+socket": ("virtual_host", *CONNECTION_OPTIONS),
    "sentinel": ("db", *CONNECTION_OPTIONS, *TLS_OPTIONS),
}
"""What each scheme reads, in both roles. kombu refuses most of it in the URL of a broker, unless that is a socket."""
_READ_OF_A_BACKEND: Final = ("username", "password")
"""kombu refuses these in the URL of a broker, and drops them from that of a socket."""
_READ_OF_A_BACKENDS_SOCKET: Final = ("db",)
"""kombu drops it, and reads database 0."""
_PASSED_OVER: Final = frozenset(
    {
        "connect_timeout",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "heartbeat",
        "insist",
        "legacy_responses",
        "lib_name",
        "lib_version",
        "login_method",
        "max_connections",
        "retry_on_error",
        "retry_on_timeout",
        "socket_keepalive_options",
        "socket_read_size",
    }
)
"""How kombu, Celery and redis-py manage their own connections: nothing that this client's have. It proves a connection
itself, has no pool of them, and never repeats a command without knowing what became of it."""
_TIME_LIMITS: Final = frozenset({"socket_timeout", "socket_connect_timeout", "timeout"})
"""They are passed over in the URL of a result backend, which Celery's workers share. kombu refuses them."""
NO_TLS: Final[Mapping[str, str]] = {
    "redis": "is about TLS, which needs the scheme rediss://",
    "redis+socket": "is about TLS, which a Unix socket does not have",
}
_FOR_BOTH: Final = "RedisOptions are for both URLs: where one alone has TLS, put ssl_* into it, behind a '?'"
_SETTING_INSTEAD: Final = "is not an option of the URL, but one of redis=RedisOptions(...)"
_IO_TIMEOUT: Final = "is not an option of the URL: the setting io_timeout says how long a command or a connect may take"
_BEFORE_HOST: Final = "is not an option of the URL: user name and password stand before the host, as user:password@host"
_IN_ITS_PLACE: Final = "is not an option of the URL, in which it has a place of its own, as in redis://localhost:6379/0"
_NO_OCSP: Final = "cannot be used: this client asks nobody by OCSP whether a certificate was revoked"
_OPTION_WORDS: Final[Mapping[str, str]] = {
    **dict.fromkeys(_TIME_LIMITS, _IO_TIMEOUT),
    **dict.fromkeys(("host", "port", "path"), _IN_ITS_PLACE),
    **dict.fromkeys(("ssl_validate_ocsp", "ssl_validate_ocsp_stapled"), _NO_OCSP),
    "master_name": _SETTING_INSTEAD,
    "global_keyprefix": "is not an option of the URL: say broker_prefix and result_prefix in redis=RedisOptions(...)",
    "username": _BEFORE_HOST,
    "password": _BEFORE_HOST,
    "credential_provider": "is refused: nothing is imported because a URL says so; "
    "give the object itself, as redis=RedisOptions(credential_provider=...)",
    "virtual_host": "is for redis+socket:// only; the database stands in the path, as in redis://localhost:6379/3",
    "db": "is ignored by Celery's broker on a Unix socket: its workers would read database 0; "
    "write virtual_host, which works everywhere",
}
SECRETS: Final = frozenset({"password", "ssl_password"})
_ENCODE: Final = (
    "In a user name, a password or a path, special characters must be percent-encoded: "
    "'@' as %40, '/' as %2F, ':' as %3A, '?' as %3F, '#' as %23, ';' as %3B, '%' as %25"
)

_HARMLESS_OPTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


class URLSetting(NamedTuple):
    """The setting that the URL comes from. Errors are made from this alone."""

    role: Role
    has_password: bool
    """Or may have one."""

    def error(self, what: str) -> ConfigError:
        """Make an error that names the setting."""
        return ConfigError(f"{self.role} (or {_VARIABLES[self.role]}): {what}")

    def malformed(self, what: str) -> ConfigError:
        """Make an error with the usual cause, a raw special character in the password, if there may be one."""
        return self.error(f"{what}. {_ENCODE}" if self.has_password else what)


def decode(text: str, setting: URLSetting) -> str:
    """Undo percent-encoding. Raise ConfigError where that gives no text."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass  # Its message shows the text, so ours is raised without it as context.
    raise setting.malformed("a percent-encoded character in it is not UTF-8")


def check_no_tls(scheme: str, redis: RedisOptions, setting: URLSetting) -> None:
    """Raise ConfigError if `RedisOptions` speak of TLS, which this scheme does not have."""
    for name in TLS_OPTIONS:
        if getattr(redis, name) is not None:
            raise setting.error(f"{name} in RedisOptions {NO_TLS[scheme]}. {_FOR_BOTH}")


def read_options(query: str, scheme: str, setting: URLSetting) -> dict[str, str]:
    """Read the options of a URL. Raise ConfigError for one that is not known, given twice or empty."""
    known = _known(scheme, setting)
    options: dict[str, str] = {}
    for piece in filter(None, query.split("&")):
        name, _, value = (decode(part.replace("+", " "), setting) for part in piece.partition("="))
        if name in _PASSED_OVER or (name in _TIME_LIMITS and setting.role == "result_backend"):
            continue
        if name not in known:
            # Behind a password with a raw '&' in it, a name is the rest of the password.
            raise setting.error(_refuse_option("" if SECRETS & options.keys() else name, scheme, known))
        if name in options:
            raise setting.error(f"the option {name} is given twice")
        if not value:
            raise setting.error(f"the option {name} has no value")
        options[name] = value
    return options


def _known(scheme: str, setting: URLSetting) -> tuple[str, ...]:
    if setting.role == "broker_url":
        return _READ[scheme]
    sockets = _READ_OF_A_BACKENDS_SOCKET if scheme == "redis+socket" else ()
    return (*_READ[scheme], *sockets, *_READ_OF_A_BACKEND)


def _refuse_option(name: str, scheme: str, known: Collection[str]) -> str:
    may_say = f"with {scheme}:// the URL may say: {', '.join(each for each in known if not each.startswith('ssl_'))}"
    if scheme not in NO_TLS:
        may_say += ", ssl_*"
    if not _HARMLESS_OPTION.fullmatch(name):
        return f"an option in it is not known; {may_say}"
    if name.startswith("ssl_") and scheme in NO_TLS:
        return f"the option {name} {NO_TLS[scheme]}"
    if name in _OPTION_WORDS:
        return f"the option {name} {_OPTION_WORDS[name]}"
    if name.startswith("ssl_"):
        may_say = f"of TLS the URL may say: {', '.join(TLS_OPTIONS)}"
    return f"the option {name} is not known; {may_say}"


class ConnectionFields(TypedDict):
    """The fields of a `RedisAddress` that no scheme has alone."""

    username: str | None
    password: str | None
    credential_provider: Any | None
    client_name: str | None
    protocol: Protocol | None
    keepalive: bool


def read_connection(
    username: str | None, password: str | None, options: Mapping[str, str], redis: RedisOptions, setting: URLSetting
) -> ConnectionFields:
    """Read who connects and how, from the URL and else from `RedisOptions`. Raise ConfigError for a contradiction."""
    for name, before_host in (("username", username), ("password", password)):
        if name in options and before_host is not None and options[name] != before_host:
            raise setting.error(f"{name} behind the '?' is not what stands before the host; say it once")
    username, password = options.get("username", username), options.get("password", password)
    if redis.credential_provider is not None and (username is not None or password is not None):
        raise setting.error(
            "user name and password are in it, and credential_provider in RedisOptions gives them too; say them once"
        )
    keepalive = _truth("socket_keepalive", options.get("socket_keepalive"), setting)
    return {
        "username": username,
        "password": password,
        "credential_provider": redis.credential_provider,
        "client_name": _say_once("client_name", _client_name, options, redis, setting),
        "protocol": _protocol(options.get("protocol"), setting),
        "keepalive": keepalive is not False,
    }


def read_tls(options: Mapping[str, str], redis: RedisOptions, setting: URLSetting) -> TLSOptions:
    """Read how to speak TLS, from the URL and else from `RedisOptions`. Raise ConfigError for a contradiction."""

    def say(name: str, read: Callable[[str, object, URLSetting], _T | None]) -> _T | None:
        return _say_once(name, read, options, redis, setting)

    cert_reqs: CertReqs = say("ssl_cert_reqs", _cert_reqs) or "required"
    certfile, keyfile = say("ssl_certfile", _path), say("ssl_keyfile", _path)
    check_hostname = say("ssl_check_hostname", _truth)
    if keyfile and not certfile:
        raise setting.error("ssl_keyfile is the key of a certificate: ssl_certfile is needed too")
    if check_hostname and cert_reqs == "none":
        raise setting.error("ssl_check_hostname needs certificates that are checked, but ssl_cert_reqs is none")
    return TLSOptions(
        cert_reqs=cert_reqs,
        ca_certs=say("ssl_ca_certs", _path),
        ca_path=say("ssl_ca_path", _path),
        ca_data=say("ssl_ca_data", _ascii),
        certfile=certfile,
        keyfile=keyfile,
        password=say("ssl_password", _text),
        check_hostname=cert_reqs != "none" if check_hostname is None else check_hostname,
        min_version=say("ssl_min_version", _version),
        ciphers=say("ssl_ciphers", _ascii),
        include_verify_flags=say("ssl_include_verify_flags", _flags),
        exclude_verify_flags=say("ssl_exclude_verify_flags", _flags),
    )


def _say_once(
    name: str,
    read: Callable[[str, object, URLSetting], _T | None],
    options: Mapping[str, str],
    redis: RedisOptions,
    setting: URLSetting,
) -> _T | None:
    """Return what URL and `RedisOptions` agree on, or None if neither says it."""
    in_url = read(name, options.get(name), setting)
    beside = read(name, getattr(redis, name), setting)
    if in_url is not None and beside is not None and in_url != beside:
        raise setting.error(f"{name} in the URL is not what RedisOptions say; say it once")
    return beside if in_url is None else in_url


# Readers of one option, from the URL or from `RedisOptions`. None is not said.


def _cert_reqs(name: str, value: object, setting: URLSetting) -> CertReqs | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value in list(ssl.VerifyMode):
        value = ssl.VerifyMode(value).name
    if not isinstance(value, str) or value not in _CERT_REQS:
        raise setting.error(f"{name}, in the URL or in RedisOptions, must be required, optional or none")
    return _CERT_REQS[value]


def _path(name: str, value: object, setting: URLSetting) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        what = "a directory" if name == "ssl_ca_path" else "a file"
        raise setting.error(f"{name}, in the URL or in RedisOptions, must be the path of {what}, as text")
    return value


def _text(name: str, value: object, setting: URLSetting) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise setting.error(f"{name}, in the URL or in RedisOptions, must be text, and not empty")
    return value


def _ascii(name: str, value: object, setting: URLSetting) -> str | None:
    text = _text(name, value, setting)
    if text is not None and not (text.isascii() and "\0" not in text):
        raise setting.error(f"{name}, in the URL or in RedisOptions, must be ASCII text")
    return text


def _truth(name: str, value: object, setting: URLSetting) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in _TRUTH:
        raise setting.error(f"{name} must be true or false in the URL, True or False in RedisOptions")
    return _TRUTH[value.lower()]


def _client_name(name: str, value: object, setting: URLSetting) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not CLIENT_NAME.fullmatch(value):
        raise setting.error(f"{name} must be ASCII text without spaces, as Redis wants it")
    return value


def _protocol(value: str | None, setting: URLSetting) -> Protocol | None:
    if value is None:
        return None
    if value not in _PROTOCOLS:
        raise setting.error("protocol must be 2 or 3: the version of Redis' protocol")
    return _PROTOCOLS[value]


def _version(name: str, value: object, setting: URLSetting) -> ssl.TLSVersion | None:
    if value is None:
        return None
    number = _TLS_VERSIONS_BY_TEXT.get(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int) or number not in _TLS_VERSIONS:
        raise setting.error(f"{name} must be the number of a version of TLS: 771 is TLS 1.2, 772 is TLS 1.3")
    return _TLS_VERSIONS[number]


def _flags(name: str, value: object, setting: URLSetting) -> ssl.VerifyFlags | None:
    if value is None:
        return None
    pieces = value.strip("[]").split(",") if isinstance(value, str) else value
    if isinstance(pieces, (list, tuple)) and pieces:
        flags = [_FLAGS.get(each.strip()) if isinstance(each, str) else each for each in pieces]
        if all(isinstance(each, ssl.VerifyFlags) for each in flags):
            return functools.reduce(operator.or_, flags)
    raise setting.error(f"{name} must be a list of flags of ssl.VerifyFlags, such as VERIFY_X509_STRICT")
