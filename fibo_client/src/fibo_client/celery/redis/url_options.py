"""The options behind the '?' of a Redis URL, those of TLS first, and the setting that the URL comes from. No I/O.

No error shows what the URL has: see `fibo_client.celery.redis.urls`.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

from fibo_client.celery.redis.address import TLSOptions
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fibo_client.celery.redis.address import CertReqs, Role
    from fibo_client.celery.redis.options import RedisOptions


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
TLS_OPTIONS: Final = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
NO_TLS: Final[Mapping[str, str]] = {
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
_ENCODE: Final = (
    "In a user name, a password or a path, special characters must be percent-encoded: "
    "'@' as %40, '/' as %2F, ':' as %3A, '?' as %3F, '#' as %23, ';' as %3B, '%' as %25"
)

_HARMLESS_OPTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


class URLSetting(NamedTuple):
    """The setting that the URL comes from. Errors are made from this alone."""

    role: Role
    has_at: bool

    def error(self, what: str) -> ConfigError:
        """Make an error that names the setting."""
        return ConfigError(f"{self.role} (or {_VARIABLES[self.role]}): {what}")

    def malformed(self, what: str) -> ConfigError:
        """Make an error with the usual cause, a raw special character in the password, if there may be one."""
        return self.error(f"{what}. {_ENCODE}" if self.has_at else what)


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


def read_options(query: str, scheme: str, allowed: Collection[str], setting: URLSetting) -> dict[str, str]:
    """Read the options of a URL. Raise ConfigError for one that is not allowed, given twice or empty."""
    options: dict[str, str] = {}
    for piece in filter(None, query.split("&")):
        name, _, value = (decode(part.replace("+", " "), setting) for part in piece.partition("="))
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
    if name.startswith("ssl_") and scheme in NO_TLS:
        return f"the option {name} {NO_TLS[scheme]}"
    if name in _OPTION_WORDS:
        return f"the option {name} {_OPTION_WORDS[name]}"
    return f"the option {name} is not known; {known}"


def read_tls(options: Mapping[str, str], redis: RedisOptions, setting: URLSetting) -> TLSOptions:
    """Read how to speak TLS, from the URL and else from `RedisOptions`. Raise ConfigError for a contradiction."""
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


def _cert_reqs(value: object, setting: URLSetting) -> CertReqs:
    if value is None:
        return "required"
    if isinstance(value, int) and not isinstance(value, bool) and value in list(ssl.VerifyMode):
        value = ssl.VerifyMode(value).name
    if not isinstance(value, str) or value not in _CERT_REQS:
        raise setting.error("ssl_cert_reqs, in the URL or in RedisOptions, must be required, optional or none")
    return _CERT_REQS[value]


def _file(name: str, value: object, setting: URLSetting) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or "\0" in value:
        raise setting.error(f"{name}, in the URL or in RedisOptions, must be the path of a file, as text")
    return value


def _truth(value: object, setting: URLSetting) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in _TRUTH:
        raise setting.error("ssl_check_hostname must be true or false in the URL, True or False in RedisOptions")
    return _TRUTH[value.lower()]
