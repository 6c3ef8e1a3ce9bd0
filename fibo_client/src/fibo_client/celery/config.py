"""The settings of a client: frozen, checked when they are made, and silent about passwords."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypedDict

from fibo_client.celery.checks import check_encodable, check_integer, check_names, check_text
from fibo_client.celery.protocol.jsontypes import MAX_READ_DEPTH, JSONCodec, JSONType
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.routes import Routes
from fibo_client.errors import ConfigError
from fibo_client.telemetry.tracer import Tracer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from fibo_client.celery.routes import TaskRoutes

__all__ = ["UNSET", "CeleryConfig", "ConfigOverrides", "Unset"]

DEFAULT_BROKER_URL: Final = "redis://localhost:6379/0"


class Unset(enum.Enum):
    """The type of `UNSET`, which means: use the client's default."""

    UNSET = "UNSET"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Not given: use the client's default. (None is a value of its own: no limit.)"""


LONGEST_TIMEOUT: Final = 1e9
"""The longest time limit, in seconds: some thirty years, within what a datetime can be."""


EXPIRY_MARGIN: Final = 2.0
"""Seconds between the deadline of an owned task and its expiry: a worker judges that by its own clock."""


def expiry_of(timeout: float | None) -> float | None:
    """Tell after how many seconds an owned task expires. None is never."""
    return None if timeout is None else timeout + EXPIRY_MARGIN


class ConfigOverrides(TypedDict, total=False):
    """The settings that a client takes by keyword: the fields of `CeleryConfig`, but for the two URLs.

    No type checker can derive it from them, so a test compares names and types.
    """

    timeout: float | None
    io_timeout: float
    push: bool
    push_limit: int
    poll_min: float
    poll_max: float | None
    max_pending: int
    max_result_bytes: int
    max_decompressed_bytes: int
    max_json_depth: int
    json_types: Sequence[JSONType[Any]]
    queue: str
    task_routes: TaskRoutes | None
    hide_arguments: bool
    revoke_on_cancel: bool
    control_exchange: str
    redis: RedisOptions
    telemetry: Tracer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CeleryConfig:
    """Where the broker and the results are, and how to wait for them. Times are seconds."""

    broker_url: str = field(default=DEFAULT_BROKER_URL, repr=False)
    """Where tasks are sent: ``redis://``, ``rediss://``, ``redis+socket://`` or ``sentinel://``, as in Celery, or
    ``valkey://`` or ``valkeys://``. ``disabled://`` is for a client that only reads results."""
    result_backend: str | None = field(default=None, repr=False)
    """Where results are stored, spelled likewise. None is the broker's URL. With another of Celery's stores, such as
    ``db+postgresql://`` or ``disabled://``, tasks can be sent, and asking for a result raises ConfigError."""
    timeout: float | None = 30.0
    """How long a call may take, from sending to the answer. None is no limit."""
    io_timeout: float = 5.0
    """How long one command, or one attempt to connect, may take."""
    push: bool = True
    """Subscribe to results, so that they arrive without polling. Polling goes on as a safety net."""
    push_limit: int = 256
    """The most results that are subscribed to at once. Others are polled."""
    poll_min: float = 0.0005
    """The shortest pause between two reads of the same result."""
    poll_max: float | None = None
    """The longest pause between two reads of the same result. None is 1.0 with push and 0.1 without."""
    max_pending: int = 200_000
    """The most results that are waited for at once. One more raises TooManyPendingError, and is not sent."""
    max_result_bytes: int = 64 * 1024 * 1024
    """The most bytes of one stored result. A longer one is dropped while it arrives, and fails alone."""
    max_decompressed_bytes: int = 64 * 1024 * 1024
    """The most bytes of one decompressed result. Decompression stops there."""
    max_json_depth: int = MAX_READ_DEPTH
    """How deeply lists and dicts may be nested in a result, at most 500. CPython's stack ends not far beyond."""
    json_types: Sequence[JSONType[Any]] = ()
    """Types of your own that arguments and results have: a `JSONType` for each ``register_type`` of the worker's."""
    queue: str = "celery"
    """The queue of tasks for which neither the call, the task nor `task_routes` names one."""
    task_routes: TaskRoutes | None = field(default=None, hash=False)
    """Celery's ``task_routes``: by a task's name, by a glob (``mail.*``) or by a compiled pattern, its queue, or a dict
    of its ``queue``, ``priority`` and ``compression``. It is a dict, a function ``(name, args, kwargs, options,
    task=None, **kw)`` that gives a route or None, or a list of dicts, of lists of pairs, and of functions. An option of
    the call or of its task wins over the route's."""
    hide_arguments: bool = False
    """Have workers' logs and events show ``<hidden>`` in place of arguments, unless the call or its `RemoteTask` has an
    ``argsrepr`` or ``kwargsrepr`` of its own. They show the arguments of a retry: the worker writes that message."""
    revoke_on_cancel: bool = True
    """Revoke an owned task whose caller leaves before the answer: cancelled, or told of the failure of another one."""
    control_exchange: str = "celery"
    """Celery's ``control_exchange``: where workers listen for remote control."""
    redis: RedisOptions = field(default_factory=RedisOptions)
    """The settings that only Redis has: prefixes, priorities, Sentinel, TLS."""
    telemetry: Tracer | None = None
    """What traces the messages that are sent: `fibo_client.telemetry.otel.OpenTelemetry`,
    `fibo_client.telemetry.sentry.Sentry`, or a tracer of your own. None is no tracing."""

    def __post_init__(self) -> None:
        for name in ("timeout", "poll_max"):
            if getattr(self, name) is not None:
                self._check_seconds(name)
        for name in ("io_timeout", "poll_min"):
            self._check_seconds(name, zero=False)
        if self.poll_min > self.longest_poll:
            raise ConfigError(f"poll_min={self.poll_min} is longer than poll_max={self.longest_poll}")
        for name, least in _LEAST.items():
            check_integer(name, getattr(self, name), least)
        if self.max_json_depth > MAX_READ_DEPTH:
            raise ConfigError(f"max_json_depth={self.max_json_depth} must be at most {MAX_READ_DEPTH}")
        for name in ("queue", "control_exchange"):
            check_text(name, getattr(self, name))
        check_encodable(self)
        if not isinstance(self.redis, RedisOptions):
            raise ConfigError(f"redis must be RedisOptions(...), not {type(self.redis).__name__}")
        object.__setattr__(self, "json_types", _check_types(self.json_types))
        _check_tracer(self.telemetry)
        if self.task_routes is not None:
            Routes(self.task_routes)  # Says what is wrong with them.

    @property
    def longest_poll(self) -> float:
        """`poll_max`, or its default: 1 second with push, 0.1 without."""
        if self.poll_max is not None:
            return self.poll_max
        return 1.0 if self.push else 0.1

    def seconds(self, timeout: float | Unset | None) -> float | None:
        """Resolve the timeout of a call, and check it.

        Args:
            timeout: Seconds, None for no limit, or UNSET for the client's default.

        Returns:
            Seconds, or None.

        Raises:
            TypeError: It is not a number.
            ValueError: It is negative, or more than 1e9.
        """
        if timeout is UNSET:
            return self.timeout
        if timeout is None:
            return None
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
        if not 0 <= timeout < math.inf:
            raise ValueError(f"timeout={timeout} must be 0 or more; None is no limit")
        if timeout > LONGEST_TIMEOUT:
            raise ValueError(f"timeout={timeout} must be at most {LONGEST_TIMEOUT:.0f} seconds; None is no limit")
        return timeout

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read the two URLs from the environment, by Celery's names.

        ``CELERY_BROKER_WRITE_URL`` or else ``CELERY_BROKER_URL`` is the broker, ``CELERY_RESULT_BACKEND`` the results.

        Args:
            env: The environment. None is the process's own.
            **overrides: Fields, which win over the environment. A URL that is None counts as not given.

        Returns:
            The settings.

        Raises:
            ConfigError: A setting is unknown or wrong.
        """
        source = os.environ if env is None else env
        broker = source.get("CELERY_BROKER_WRITE_URL") or source.get("CELERY_BROKER_URL") or DEFAULT_BROKER_URL
        fields: dict[str, Any] = {
            "broker_url": broker,
            "result_backend": source.get("CELERY_RESULT_BACKEND") or None,
        }
        fields |= {name: value for name, value in overrides.items() if value is not None or name not in fields}
        return cls.from_fields(fields)

    @classmethod
    def resolve(
        cls,
        config: Self | None,
        broker_url: str | None,
        result_backend: str | None,
        overrides: Mapping[str, Any],
    ) -> Self:
        """Combine what a client was given.

        Args:
            config: Settings, in place of the environment's.
            broker_url: Wins over them, unless it is None.
            result_backend: Wins over them, unless it is None.
            overrides: Fields that win over them.

        Returns:
            The settings.

        Raises:
            ConfigError: A setting is unknown or wrong.
        """
        fields = dict(overrides)
        if broker_url is not None:
            _check_no_transport(broker_url)
            fields["broker_url"] = broker_url
        if result_backend is not None:
            fields["result_backend"] = result_backend
        if config is None:
            return cls.from_env(**fields)
        if not isinstance(config, cls):
            raise ConfigError(f"config must be a {cls.__name__}, not {type(config).__name__}")
        given = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
        return type(config).from_fields(given | fields)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Make the settings from a mapping.

        Args:
            fields: Values by name.

        Returns:
            The settings.

        Raises:
            ConfigError: A name is not one of the fields, or a value is wrong.
        """
        for name in _OF_REDIS.intersection(fields):
            raise ConfigError(f"{name!r} is not a setting; it is one of redis=RedisOptions({name}=...)")
        check_names(cls, fields)
        return cls(**fields)

    def _check_seconds(self, name: str, *, zero: bool = True) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"{name}={value!r} must be a number of seconds")
        if value < 0 or (value == 0 and not zero):
            raise ConfigError(f"{name}={value!r} must be {'0 or more' if zero else 'more than 0'}")
        if value > LONGEST_TIMEOUT:
            raise ConfigError(f"{name}={value!r} must be at most {LONGEST_TIMEOUT:.0f} seconds; None is no limit")


_LEAST: Final = {
    "push_limit": 1,
    "max_pending": 1,
    "max_result_bytes": 1024,
    "max_decompressed_bytes": 1024,
    "max_json_depth": 10,
}


_OF_REDIS: Final = {each.name for each in dataclasses.fields(RedisOptions)}


def _check_no_transport(url: object) -> None:
    """Raise with a hint if a transport, such as a double, stands in the URL's place."""
    if callable(getattr(url, "connect", None)):
        raise ConfigError(f"broker_url must be text; write: transport={type(url).__name__}(...), by that name")


def _check_tracer(tracer: object) -> None:
    if tracer is not None and (isinstance(tracer, type) or not isinstance(tracer, Tracer)):
        given = f"the class {tracer.__name__}" if isinstance(tracer, type) else type(tracer).__name__
        raise ConfigError(
            "telemetry must be a fibo_client.telemetry.Tracer, such as OpenTelemetry() of fibo_client.telemetry.otel, "
            f"not {given}"
        )


def _check_types(types: object) -> tuple[JSONType[Any], ...]:
    if not isinstance(types, (list, tuple)):
        raise ConfigError(f"json_types must be a list of JSONTypes, not {type(types).__name__}")
    JSONCodec(types)  # Says what is wrong with them.
    return tuple(types)
