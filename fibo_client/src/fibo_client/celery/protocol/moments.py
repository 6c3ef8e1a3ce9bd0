"""When a task may run: ``countdown``, ``eta`` and ``expires`` as the protocol writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from fibo_client.celery.protocol.options import check_seconds
from fibo_client.errors import MessageError
from fibo_client.text import short_repr

_EARLIEST: Final = -(2**31)  # the smallest countdown that Celery's own client accepts


class Moments(NamedTuple):
    """When a task may run, as text. Each is None where it is not limited.

    Attributes:
        eta: The time before which the task must not run, in ISO 8601.
        expires: The time after which the task must not start, in ISO 8601.
        expiration: Milliseconds until `expires`.
    """

    eta: str | None
    expires: str | None
    expiration: str | None


def encode_moments(
    now: datetime,
    *,
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: float | datetime | None = None,
) -> Moments:
    """Check and encode when a task may run.

    Args:
        now: The current time, with a time zone; `countdown` and a number of seconds in `expires` count from it.
        countdown: Seconds before the task may run. A negative number means at once, like an `eta` in the past.
        eta: The time before which the task must not run, with a time zone.
        expires: Seconds from `now`, or a time with a time zone, after which the task must not start.

    Returns:
        The encoded times.

    Raises:
        MessageError: A time is out of the calendar's range or has no time zone, or `expires` is in the past.
    """
    if now.tzinfo is None:
        raise MessageError("now has no time zone")
    starts = None if eta is None and countdown is None else _eta(eta, countdown, now)
    return Moments(starts, *_expires(expires, now))


def _eta(eta: datetime | None, countdown: float | None, now: datetime) -> str | None:
    if countdown is not None:
        if eta is not None:
            raise MessageError("give countdown or eta, not both")
        return _moment("countdown", now, check_seconds("countdown", countdown, _EARLIEST)) if countdown else None
    return None if eta is None else _iso(_aware("eta", eta))


def _expires(expires: float | datetime | None, now: datetime) -> tuple[str | None, str | None]:
    if expires is None:
        return None, None
    if isinstance(expires, datetime):
        moment = _aware("expires", expires)
        seconds = (moment - now).total_seconds()
        text = _iso(moment)
    else:
        seconds = check_seconds("expires", expires) or 0.0
        text = _moment("expires", now, seconds)
    if seconds <= 0:
        raise MessageError("expires is in the past: the worker would only revoke the task")
    return text, str(int(seconds * 1000))


def _moment(what: str, now: datetime, seconds: float | None) -> str:
    try:
        return _iso(now.astimezone(UTC) + timedelta(seconds=seconds or 0.0))
    except OverflowError:
        raise MessageError(
            f"{what}={short_repr(seconds)} seconds is beyond the last possible date; give a smaller number"
        ) from None


def _aware(what: str, moment: object) -> datetime:
    if not isinstance(moment, datetime):
        raise MessageError(f"{what} must be a datetime with a time zone, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise MessageError(
            f"{what}={moment.isoformat()} has no time zone, and the worker would read it as UTC; "
            "use datetime.now(timezone.utc), or .astimezone() for local time"
        )
    try:
        # Celery, too, writes countdowns in UTC. Some time zones have offsets with seconds, which workers refuse.
        return moment.astimezone(UTC)
    except OverflowError:
        raise MessageError(f"{what}={moment.isoformat()} is out of range in UTC; give a year from 2 to 9998") from None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")
