"""Where tasks go, by their names: Celery's setting ``task_routes``. Pure. Source: ``celery.app.routes``."""

from __future__ import annotations

import fnmatch
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fibo_client.celery.chunk import called_by
from fibo_client.celery.protocol.message import build_template
from fibo_client.celery.signature import Signature
from fibo_client.errors import ConfigError, MessageError
from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Routes", "TaskRoutes"]

Route: TypeAlias = str | Mapping[str, Any]
"""A queue's name, or options."""

RouteMap: TypeAlias = Mapping[Any, Route] | Sequence[tuple[Any, Route]]
"""Routes by names, by globs (with a ``*`` in them) or by compiled patterns."""

Router: TypeAlias = Callable[..., Route | None]
"""A function ``(name, args, kwargs, options, task=None, **kw)``. None is no route."""

TaskRoutes: TypeAlias = Mapping[Any, Route] | Router | Sequence[RouteMap | Router]
"""Celery's ``task_routes``."""

_OPTIONS: Final = ("queue", "priority", "compression")
_EXCHANGES: Final = ("exchange", "exchange_type", "routing_key")

_MOST_NAMES: Final = 1024
"""Of how many tasks it is remembered which route they have."""


class Routes:
    """Finds the route of a task.

    Args:
        routes: A dict; a function; or a list of dicts, of lists of pairs, and of functions. In a list, the first that
            has a route wins. In a dict or a list of pairs, an equal name wins, then the first pattern that matches.

    Raises:
        ConfigError: One of them is none of these, or has an option that no route can have here.
    """

    def __init__(self, routes: TaskRoutes) -> None:
        given = routes if isinstance(routes, (list, tuple)) else [routes]
        self._routers: list[_RouteMap | Router] = [_prepare(each) for each in given]
        self._last: tuple[object, object, object, Mapping[str, Any]] = (None, None, None, {})

    def apply(self, signature: Signature[Any], options: Mapping[str, Any]) -> Signature[Any]:
        """Give a call the options of its route that it has not itself.

        Args:
            signature: The call.
            options: More options of it, which win over those of its route, too.

        Returns:
            The call with these options: one object for all calls of a task whose own are one object.

        Raises:
            MessageError: A function gave something that is no route.
        """
        route = self._find(signature, options) if isinstance(signature.task, str) else None
        if not route:
            return signature
        own = signature.options
        winning = None if options.keys().isdisjoint(route) else options
        last_route, last_own, last_winning, merged = self._last
        if route is not last_route or own is not last_own or winning is not last_winning:
            merged = {**{name: value for name, value in route.items() if name not in options}, **own}
            self._last = (route, own, winning, merged)
        return Signature(
            signature.task,
            signature.args,
            signature.kwargs,
            signature.decode,
            merged,
            signature.remote_task,
            signature.is_immutable,
        )

    def _find(self, signature: Signature[Any], options: Mapping[str, Any]) -> Mapping[str, Any] | None:
        name = called_by(signature)
        for router in self._routers:
            if isinstance(router, _RouteMap):
                route = router.find(name)
            else:
                all_options = {**signature.options, **options}
                found = router(name, signature.args, signature.kwargs or {}, all_options, task=None)
                route = None if found is None else _checked(found, f"what {_name_of(router)} gave for {name}")
            if route is not None:
                return route
        return None

    def queue_of(self, task: str) -> str | None:
        """Tell which queue the route of a task names. Functions are not asked: they may look at its arguments.

        Args:
            task: The task's name.

        Returns:
            The queue. None is that of the client.
        """
        found = (router.find(task) for router in self._routers if isinstance(router, _RouteMap))
        route = next((each for each in found if each is not None), None)
        return None if route is None else route.get("queue")


class _RouteMap:
    """Routes by names and patterns."""

    def __init__(self, pairs: Iterable[object]) -> None:
        self._names: dict[str, Mapping[str, Any]] = {}
        self._patterns: dict[re.Pattern[str], Mapping[str, Any]] = {}
        for pair in pairs:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise ConfigError(
                    f"task_routes: {short_repr(pair)} is no pair of a task's name and its route; a list of pairs "
                    "stands in a list of routers, as [[(name, route), ...]]"
                )
            name, given = pair
            try:
                route = _checked(given, f"task_routes: the route of {short_repr(name)}")
            except MessageError as error:
                raise ConfigError(str(error)) from None
            if isinstance(name, re.Pattern) and isinstance(name.pattern, str):
                self._patterns[name] = route
            elif not isinstance(name, str):
                raise ConfigError(f"task_routes: {short_repr(name)} is neither a task's name nor a compiled pattern")
            elif "*" in name:
                self._patterns[re.compile(fnmatch.translate(name))] = route
            else:
                self._names[name] = route
        # The same tasks are called again and again.
        self.find: Callable[[str], Mapping[str, Any] | None] = lru_cache(_MOST_NAMES)(self._find)

    def _find(self, name: str) -> Mapping[str, Any] | None:
        if name in self._names:
            return self._names[name]
        return next((route for pattern, route in self._patterns.items() if pattern.match(name)), None)


def _prepare(router: object) -> _RouteMap | Router:
    """Check one part of the setting."""
    if isinstance(router, Mapping):
        return _RouteMap(router.items())
    if isinstance(router, (list, tuple)):
        return _RouteMap(router)
    if isinstance(router, str):
        raise ConfigError(f"task_routes: {short_repr(router)} is not imported by its name; give the function itself")
    if not callable(router) or isinstance(router, type) or inspect.iscoroutinefunction(router):
        raise ConfigError(
            "task_routes must be a dict, a function (not a coroutine function), or a list of dicts, lists of pairs "
            f"and functions, not {short_repr(router)}"
        )
    return router


def _checked(route: object, what: str) -> Mapping[str, Any]:
    """Check a route, and give its options. Raise MessageError, with `what` it is, for what it cannot be."""
    options = {"queue": route} if isinstance(route, str) else route
    if not isinstance(options, Mapping):
        raise MessageError(f"{what} must be a queue's name or a dict of options, not {type(route).__name__}")
    for name in options:
        if name in _EXCHANGES:
            raise MessageError(f"{what} has {name!r}; name the queue alone: this client sends to queues, not exchanges")
        if name not in _OPTIONS:
            raise MessageError(f"{what} has {name!r}; options of a route are {', '.join(_OPTIONS)}")
    try:
        build_template("any", origin="any", **{"queue": "any", **options})
    except MessageError as error:
        raise MessageError(f"{what}: {error}") from None
    return dict(options)


def _name_of(router: Router) -> str:
    return getattr(router, "__qualname__", type(router).__qualname__)
