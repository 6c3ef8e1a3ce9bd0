"""What a worker sends after a task of a chain or a chord. Source: ``celery.canvas`` and ``celery.backends.base``."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fibo_client.celery.protocol import jsontypes, states
from fibo_client.celery.protocol.compression import decompress
from fibo_client.celery.protocol.groups import size_name
from fibo_client.celery.protocol.message import TaskMessage, build_template, encode_arguments
from fibo_client.celery.protocol.moments import Moments
from fibo_client.celery.protocol.signatures import embed_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Canvas"]

Json: TypeAlias = dict[str, Any]
Failures: TypeAlias = list[tuple[str, Json]]
"""Ids of tasks that did not run, and the errors to store of them."""

_OPTIONS: Final = (
    *("priority", "time_limit", "soft_time_limit", "ignore_result"),
    *("shadow", "root_id", "parent_id", "compression"),
)
_MOST_BYTES: Final = 512 * 1024 * 1024


class Canvas:
    """Unfolds chains, groups and chords, as Celery's workers do.

    Args:
        send: Sends a message.
        sizes: How many results each chord waits for, by Celery's name of the key.

    Attributes:
        types: The types that arguments may have.
    """

    def __init__(self, send: Callable[[TaskMessage], None], sizes: dict[str, bytes]) -> None:
        self._send = send
        self._sizes = sizes
        self._came: dict[str, dict[int, tuple[str, Json | None, Any]]] = {}
        self.types: jsontypes.JSONCodec = jsontypes.CELERY_JSON

    def succeeded(self, message: TaskMessage, value: Any) -> Failures:
        """Send what follows a task that has succeeded; return the failures to store."""
        embed = self._embed(message)
        for callback in embed.get("callbacks") or ():
            self._start(callback, [value])
        rest = list(embed.get("chain") or ())
        if rest:
            self._start(rest.pop(), [value], rest)
        return self._returned(message.group, message.id, embed.get("chord"), None, value)

    def failed(self, message: TaskMessage, state: str, error: Json) -> Failures:
        """Send what follows a task that has ended badly; return the failures to store: later steps fail with it."""
        embed = self._embed(message)
        failures: Failures = []
        if state == states.FAILURE:
            for errback in embed.get("errbacks") or ():
                self._start(errback, [message.id])
            for step in reversed(embed.get("chain") or ()):
                options = step["options"]
                failures.append((options["task_id"], error))
                if "chord" in options:
                    group = options["group_id"], options["group_index"]
                    failures += self._returned(group, options["task_id"], options["chord"], error, None)
        return failures + self._returned(message.group, message.id, embed.get("chord"), error, None)

    def _embed(self, message: TaskMessage) -> Json:
        compression = message.template.headers.get("compression")
        body = message.body if compression is None else decompress(message.body, compression, _MOST_BYTES)
        embed: Json = self.types.loads(body)[2]
        return embed

    def _returned(
        self, group: tuple[str, int] | None, task_id: str, body: Json | None, error: Json | None, value: Any
    ) -> Failures:
        """Count a member of a chord. After the last, send the body, or fail it."""
        if body is None or group is None:
            return []
        group_id, index = group
        size = self._sizes.get(size_name(group_id))
        came = self._came.setdefault(group_id, {})
        came[index] = (task_id, error, value)
        if size is None or len(came) < int(size):
            return []
        del self._came[group_id], self._sizes[size_name(group_id)]
        for member_id, failure, _ in came.values():
            if failure is not None:
                told = f"Dependency {member_id} raised {failure['exc_type']}{tuple(failure['exc_message'])!r}"
                chord_error = {"exc_type": "ChordError", "exc_message": [told], "exc_module": "celery.exceptions"}
                return [(body["options"]["task_id"], chord_error)]
        self._start(body, [[came[index][2] for index in sorted(came)]])
        return []

    def _start(self, signature: Json, first: list[Any], rest: Sequence[Json] = ()) -> None:
        """Send a signature, after which others follow."""
        options, kwargs = dict(signature["options"]), signature["kwargs"]
        given = [] if signature["immutable"] else first
        match signature["subtask_type"]:
            case "chain":
                steps = list(kwargs["tasks"])
                last = {**steps[-1], "options": {**steps[-1]["options"], **_place(options)}}
                before = [*steps[:-1], last]
                self._start(before[0], first, [*rest, *reversed(before[1:])])
            case "group":
                for member in kwargs["tasks"]:
                    self._start(_in(member, options["task_id"]), first)
            case "chord":
                self._start_chord(signature, first, list(rest))
            case _:
                self._message(signature, [*given, *signature["args"]], options, list(rest))

    def _start_chord(self, signature: Json, first: list[Any], rest: list[Json]) -> None:
        kwargs = signature["kwargs"]
        header, body, group_id = kwargs["header"], kwargs["body"], signature["options"]["task_id"]
        members = header["kwargs"]["tasks"] if isinstance(header, dict) else header
        if rest:
            steps = [body, *reversed(rest)]
            options = {"task_id": steps[-1]["options"].get("task_id")}
            body = {**body, "kwargs": {"tasks": steps}, "options": options, "subtask_type": "chain"}
        if not members:
            self._start(body, [[]])
            return
        self._sizes[size_name(group_id)] = str(len(members)).encode()
        for member in members:
            placed = _in(member, group_id)
            self._start({**placed, "options": {**placed["options"], "chord": body}}, first)

    def _message(self, signature: Json, args: list[Any], options: Json, rest: list[Json]) -> None:
        after = [options.get(name) for name in ("link", "link_error", "chord")]
        callbacks, errbacks, chord = (each and self.types.dumps(each) for each in after)
        embed = embed_json(callbacks, errbacks, [self.types.dumps(step) for step in reversed(rest)], chord)
        stamped = options.get("stamped_headers") or ()
        template = build_template(
            signature["task"],
            queue=options.get("queue") or "celery",
            origin="worker",
            stamps={name: options[name] for name in stamped} or None,
            **{name: options[name] for name in _OPTIONS if name in options},
        )
        body, argsrepr, kwargsrepr = encode_arguments(
            args, signature["kwargs"], options.get("compression"), types=self.types, embed=embed
        )
        eta, expires = options.get("eta"), options.get("expires")
        self._send(
            TaskMessage(
                options.get("task_id") or str(uuid.uuid4()),
                template,
                body,
                argsrepr,
                kwargsrepr,
                Moments(eta, expires, None),
                options.get("headers") or {},
                (options["group_id"], options.get("group_index") or 0) if options.get("group_id") else None,
            )
        )


def _place(options: Json) -> Json:
    return {name: options[name] for name in ("group_id", "group_index", "chord") if name in options}


def _in(member: Json, group_id: str) -> Json:
    """Put a member of a group that a worker sends into that group."""
    return {**member, "options": {**member["options"], "group_id": group_id}}
