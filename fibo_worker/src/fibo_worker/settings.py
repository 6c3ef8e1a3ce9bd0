"""The worker's settings: from the environment to a Celery configuration.

The soft time limit must be less than the time limit, and the visibility timeout more. All workers on one broker need
the same visibility timeout.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from celery.exceptions import ImproperlyConfigured

from fibo_client.contract import DEFAULT_MAX_N
from fibo_client.errors import ConfigError
from fibo_worker.guard.protections import check_names
from fibo_worker.guard.settings import VARIABLES, GuardSettings
from fibo_worker.passed import passed_settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

__all__ = ["WorkerSettings"]

_LARGEST_MAX_N: Final = 1_000_000_000  # its decimal digits fit into one Redis value, which has at most 512 MB
_SCHEMES: Final = ("redis", "rediss", "redis+socket", "sentinel")
_CERT_REQS: Final = ("CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", "required", "optional", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings(GuardSettings):
    """The settings of a worker: these, and those of its guard. Times are whole seconds.

    Raises:
        ConfigError: A value is wrong. The message names its variable.
    """

    _variables: ClassVar[Mapping[str, str]] = {
        **VARIABLES,
        "max_n": "FIBO_MAX_N",
        "time_limit": "FIBO_TIME_LIMIT",
        "soft_time_limit": "FIBO_SOFT_TIME_LIMIT",
        "visibility_timeout": "FIBO_VISIBILITY_TIMEOUT",
        "result_expires": "FIBO_RESULT_EXPIRES",
    }

    broker_url: str = field(default="redis://localhost:6379/0", repr=False)
    """Where tasks come from: ``redis://``, ``rediss://``, ``redis+socket://`` or ``sentinel://``."""
    result_backend: str | None = field(default=None, repr=False)
    """Where results are stored: a URL of the same kinds. None is the broker's URL."""
    max_n: int = DEFAULT_MAX_N
    """The largest n that the worker computes."""
    time_limit: int = 120
    """The time after which the worker kills a task's process."""
    soft_time_limit: int = 110
    """The time after which the worker raises SoftTimeLimitExceeded in a task."""
    visibility_timeout: int = 180
    """The time after which a task runs again if its worker was lost. Every task must end before that."""
    result_expires: int = 3600
    """How long Redis keeps a result."""
    master_name: str | None = None
    """The Sentinels' name for the master. ``sentinel://`` needs it, and uses it for tasks and results."""
    without: frozenset[str] = frozenset()
    """The names of the protections to do without: see `fibo_worker.guard.protect`."""
    celery: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """More of Celery's settings, by their names. They win, but for those that a protection of the guard needs."""

    def __post_init__(self) -> None:
        try:
            GuardSettings.__post_init__(self)  # super() does not work in a dataclass with slots
            check_names(self.without)
        except ImproperlyConfigured as error:
            raise ConfigError(str(error)) from None
        if self.max_n > _LARGEST_MAX_N:
            raise ConfigError(f"FIBO_MAX_N must be at most {_LARGEST_MAX_N}, not {self.max_n}")
        if self.soft_time_limit >= self.time_limit:
            raise ConfigError(
                f"FIBO_SOFT_TIME_LIMIT={self.soft_time_limit} must be less than "
                f"FIBO_TIME_LIMIT={self.time_limit}, or the worker kills a task before the soft limit"
            )
        if self.visibility_timeout <= self.time_limit:
            raise ConfigError(
                f"FIBO_VISIBILITY_TIMEOUT={self.visibility_timeout} must be more than "
                f"FIBO_TIME_LIMIT={self.time_limit}, or a task that still runs is started a second time"
            )
        _check_url("CELERY_BROKER_URL", self.broker_url)
        if self.result_backend is not None:
            _check_url("CELERY_RESULT_BACKEND", self.result_backend)
        sentinel = any(url.startswith("sentinel:") for url in (self.broker_url, self.result_backend or ""))
        if sentinel and not self.master_name:
            raise ConfigError("FIBO_MASTER_NAME must be the Sentinels' name for the master, as sentinel:// needs it")
        # Broker and backend both accept a list of Sentinels, but only the broker a list of plain servers.
        backend = self.result_backend or self.broker_url
        if ";" in backend and not backend.startswith("sentinel:"):
            raise ConfigError(
                "CELERY_RESULT_BACKEND must be set, to one URL, where CELERY_BROKER_URL is a list of them"
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Self:
        """Read the settings from an environment. An empty variable counts as not set.

        Args:
            env: The environment, such as ``os.environ``.

        Returns:
            The settings.

        Raises:
            ConfigError: A variable is wrong. The message names it, and contains no password.
        """
        try:
            fields = cls._fields(env)
        except ImproperlyConfigured as error:
            raise ConfigError(str(error)) from None
        # Celery reads tasks from the first of these two variables that is set.
        if broker := env.get("CELERY_BROKER_READ_URL") or env.get("CELERY_BROKER_URL"):
            fields["broker_url"] = broker
        if backend := env.get("CELERY_RESULT_BACKEND"):
            fields["result_backend"] = backend
        if name := env.get("FIBO_MASTER_NAME"):
            fields["master_name"] = name
        if names := env.get("FIBO_WITHOUT"):
            fields["without"] = frozenset(each.strip() for each in names.split(","))
        settings = cls(**fields, celery=passed_settings(env))
        if write := env.get("CELERY_BROKER_WRITE_URL"):
            _check_url("CELERY_BROKER_WRITE_URL", write)
            if _is_tls(write) != _is_tls(settings.broker_url):
                raise ConfigError(
                    "CELERY_BROKER_WRITE_URL and the broker's other URL must both be rediss://, or neither"
                )
        return settings

    def celery_conf(self) -> dict[str, Any]:
        """Make the Celery configuration, beside the guard's defaults: Celery's settings by their names."""
        backend = self.result_backend or self.broker_url
        conf: dict[str, Any] = {
            "broker_url": self.broker_url,
            "result_backend": backend,
            "task_serializer": "json",
            "result_serializer": "json",
            "result_accept_content": ["json"],
            "result_expires": self.result_expires,
            "enable_utc": True,
            "timezone": "UTC",
            # A worker must not reserve small tasks while it runs a large one.
            "worker_prefetch_multiplier": 1,
            "task_time_limit": self.time_limit,
            "task_soft_time_limit": self.soft_time_limit,
            "broker_transport_options": {"visibility_timeout": self.visibility_timeout},
        }
        if self.master_name is not None:
            conf["broker_transport_options"]["master_name"] = self.master_name
            conf["result_backend_transport_options"] = {"master_name": self.master_name}
        # By default, Celery's broker checks no certificates, and its backend refuses to start. An ssl_cert_reqs in a
        # URL wins over these two settings.
        if _is_tls(self.broker_url):
            conf["broker_use_ssl"] = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        if _is_tls(backend):
            conf["redis_backend_use_ssl"] = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        for name, value in self.celery.items():
            ours = conf.get(name)
            conf[name] = {**ours, **value} if isinstance(ours, dict) and isinstance(value, dict) else value
        return conf


def _is_tls(url: str) -> bool:
    return url.startswith("rediss:")


def _check_url(variable: str, url: str) -> None:
    """Refuse a URL that Celery would misread. The error does not contain the URL, which may hold a password."""
    if not isinstance(url, str):
        raise ConfigError(f"{variable} must be text, not {type(url).__name__}")
    urls = url.split(";")
    for each in urls:
        _check_one_url(variable, each)
    if len({_is_tls(each) for each in urls}) > 1:
        raise ConfigError(f"{variable} must have rediss:// in every one of its URLs, or in none")


def _check_one_url(variable: str, url: str) -> None:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        known = ", ".join(f"{each}://" for each in _SCHEMES)
        raise ConfigError(f"{variable} must begin with one of: {known}")
    try:
        parts = urlsplit(url)
        _ = parts.port  # reading it checks it
    except ValueError:
        raise ConfigError(
            f"{variable} has a port that is not a number from 0 to 65535, or a host in brackets that do not "
            "match. Write / ? # @ : ; in a user name or a password as %2F %3F %23 %40 %3A %3B"
        ) from None
    database = parts.path.strip("/")
    if scheme != "redis+socket" and database and not database.isdecimal():
        raise ConfigError(f"{variable} must end in the number of a database, such as /0, or in none")
    for value in parse_qs(parts.query).get("ssl_cert_reqs", []):
        if value not in _CERT_REQS:
            raise ConfigError(f"{variable} has a wrong ssl_cert_reqs; it must be one of: {', '.join(_CERT_REQS)}")
