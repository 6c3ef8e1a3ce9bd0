"""Signatures as workers read them: the JSON of what a message tells its worker to send later.

Source: ``celery.canvas``. It is written as text at once: a chain of three has two in its message, and a chord one in
that of each member.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii as quote
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SignatureTemplate", "chain_json", "chord_json", "embed_json", "group_json", "place_json"]


class SignatureTemplate:
    """What the signatures of one task with the same options have in common.

    Args:
        task: The task's registered name.
        options: Its options but for the id, as plain JSON values.
    """

    __slots__ = ("_headers", "_options", "_start")

    def __init__(self, task: str, options: Mapping[str, Any]) -> None:
        others = {name: value for name, value in options.items() if name != "headers"}
        self._start = f'{{"task": {quote(task)}, "args": '
        self._options = f", {json.dumps(others)[1:-1]}" if others else ""
        self._headers = f', "headers": {json.dumps(options["headers"])}' if "headers" in options else ""

    def fill(
        self,
        arguments: tuple[str, str],
        task_id: str,
        more: str,
        is_immutable: bool,
        headers: Mapping[str, Any] | None,
    ) -> str:
        """Write one signature.

        Args:
            arguments: The positional and the keyword arguments, from `arguments_json`.
            task_id: The task's id.
            more: More options, as `place_json` writes them.
            is_immutable: Whether it takes no result of the task before it.
            headers: The headers in place of the template's. None is those.

        Returns:
            JSON.
        """
        args, kwargs = arguments
        own = self._headers if headers is None else f', "headers": {json.dumps(headers)}'
        return (
            f'{self._start}{args}, "kwargs": {kwargs}, "options": {{"task_id": {quote(task_id)}{self._options}{own}'
            f'{more}}}, "subtask_type": null, "immutable": {"true" if is_immutable else "false"}}}'
        )


def place_json(group: str | None, index: int | None = None, chord: str | None = None) -> str:
    """Write where a task stands in a group or in a chord's header, as more options.

    Args:
        group: The id of the group. None is known by what the signature stands in.
        index: The index there.
        chord: The body of the chord, in JSON.

    Returns:
        The members of a JSON object, each after a comma.
    """
    return (
        ("" if group is None else f', "group_id": {quote(group)}')
        + ("" if index is None else f', "group_index": {index}')
        + ("" if chord is None else f', "chord": {chord}')
    )


def embed_json(callbacks: str | None, errbacks: str | None, chain: Sequence[str], chord: str | None) -> str:
    """Write the last part of a message's body.

    Args:
        callbacks: What is sent once the task has succeeded, as a JSON list.
        errbacks: What is sent once it has failed, likewise.
        chain: The later steps, in the order in which they run.
        chord: The body of the chord that the task is in.

    Returns:
        JSON.
    """
    # Workers take the next step from the end.
    steps = f"[{', '.join(reversed(chain))}]" if chain else "null"
    return (
        f'{{"callbacks": {callbacks or "null"}, "errbacks": {errbacks or "null"}, "chain": {steps}, '
        f'"chord": {chord or "null"}}}'
    )


def chain_json(steps: Sequence[str], last_id: str | None, more: str) -> str:
    """Write a chain of signatures, in the order in which they run. Its id is that of its last step."""
    return _composed("chain", f'{{"tasks": [{", ".join(steps)}]}}', f'"task_id": {json.dumps(last_id)}{more}')


def group_json(members: Sequence[str], group_id: str) -> str:
    """Write a group of signatures."""
    options = f'"task_id": {quote(group_id)}, "root_id": null, "parent_id": null'
    return _composed("group", f'{{"tasks": [{", ".join(members)}]}}', options)


def chord_json(header: str, body: str, group_id: str, more: str) -> str:
    """Write a chord of a group and a body."""
    return _composed(
        "chord", f'{{"kwargs": {{}}, "header": {header}, "body": {body}}}', f'"task_id": {quote(group_id)}{more}'
    )


def _composed(kind: str, kwargs: str, options: str) -> str:
    return (
        f'{{"task": "celery.{kind}", "args": [], "kwargs": {kwargs}, "options": {{{options}}}, '
        f'"subtask_type": "{kind}", "immutable": false}}'
    )
