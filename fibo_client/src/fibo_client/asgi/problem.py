"""What a caller of a service is told of an error: a problem document, as RFC 9457 has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fibo_client.errors import (
    ClientStateError,
    FiboError,
    NotReadyError,
    PublishUnknownError,
    ResultDecodeError,
    ResultTimeoutError,
    TaskError,
    TooManyPendingError,
    TransportError,
)

if TYPE_CHECKING:
    from typing import Self

MEDIA_TYPE: Final = "application/problem+json"

CLIENT_CLOSED_REQUEST: Final = 499
"""The status of a request whose caller left, as nginx has it. Nobody receives it."""

_AGAIN: Final = 1
"""Seconds after which a caller may try again what was certainly not begun."""

_FAULT: Final = "The service has a fault. It is in its log."

# The first that fits counts.
_ANSWERS: Final[tuple[tuple[type[FiboError], int, str, int | None], ...]] = (
    (ResultTimeoutError, 504, "No worker answered in time.", None),
    (PublishUnknownError, 503, "The queue did not confirm the work. It may have begun all the same.", None),
    (TransportError, 503, "The queue cannot be reached just now.", _AGAIN),
    (NotReadyError, 503, "No worker answers.", _AGAIN),
    (TooManyPendingError, 503, "Too much is under way just now.", _AGAIN),
    (ClientStateError, 503, "The service is stopping.", _AGAIN),
    (TaskError, 502, "The worker could not compute it.", None),
    (ResultDecodeError, 502, "The worker's answer cannot be read.", None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What went wrong, for the caller of a service. It names no task, no host and no cause: those are for the log.

    Attributes:
        type: What kind of problem it is, as a URI. ``about:blank`` is the one of the status.
        title: The status in words.
        status: The HTTP status.
        detail: What happened, in a sentence.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str

    @classmethod
    def of(cls, status: int, detail: str) -> Self:
        """Make the problem of a status.

        Args:
            status: The HTTP status.
            detail: What happened, in a sentence.

        Returns:
            The problem.
        """
        title = "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase
        return cls(title=title, status=status, detail=detail)

    @classmethod
    def from_error(cls, error: BaseException) -> Self:
        """Tell of an error.

        Args:
            error: An error of the client's, or an exception group that has nothing else in it: of these, the first
                counts.

        Returns:
            504 for a ResultTimeoutError; 503 where the server or the workers are away, or the client is full or
            closed; 502 where the task failed, or its result cannot be read; 500 for everything else, of which nothing
            is told.
        """
        _, status, detail, _ = _answer(error)
        return cls.of(status, detail)

    def to_json(self) -> bytes:
        """Encode it. The media type is ``application/problem+json``.

        Returns:
            JSON in ASCII. What a stranger sent may be quoted, and half of a surrogate pair cannot be sent as UTF-8.
        """
        return json.dumps(self.to_dict()).encode("ascii")

    def to_dict(self) -> dict[str, Any]:
        """Give its members.

        Returns:
            A dict of ``type``, ``title``, ``status`` and ``detail``.
        """
        return {"type": self.type, "title": self.title, "status": self.status, "detail": self.detail}


def retry_after(error: BaseException) -> int | None:
    """Tell after how many seconds to ask again. None where the request may have had an effect, or it will not help."""
    return _answer(error)[3]


def _answer(error: BaseException) -> tuple[type[BaseException], int, str, int | None]:
    if isinstance(error, BaseExceptionGroup) and error.split(FiboError)[1] is None:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    for answer in _ANSWERS:
        if isinstance(error, answer[0]):
            return answer
    return (BaseException, HTTPStatus.INTERNAL_SERVER_ERROR, _FAULT, None)
