"""Failures of Redis: their outcome, the public error for each, and a hint on what to do."""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

import hiredis

from fibo_client.errors import TransportError
from fibo_client.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

Outcome = Literal["unsent", "refused", "unknown"]


class RedisFaultError(TransportError):
    """A command failed.

    Attributes:
        outcome: ``unsent``: it was not sent. ``refused``: Redis answered with an error. ``unknown``: no answer came.
    """

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.outcome = outcome
        self.refused: bool = outcome == "refused"
        super().__init__(reason)

    def again(self) -> Self:
        """Make the same error anew: it is told to several, and each gets a traceback of its own."""
        error = type(self)(self.outcome, str(self))
        error.__cause__ = self.__cause__
        return error


class ReplyTooLargeError(RedisFaultError):
    """The reply was larger than what is taken."""


class GivenUpError(RedisFaultError):
    """The client gave a connection up, and not because of this command: another connection may well take it."""


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise the public error for a fault, with what was met as its cause.

    Raises:
        TransportError: A command inside failed.
    """
    try:
        yield
    except RedisFaultError as fault:
        error = translated(fault)
        raise error from fault.__cause__


def translated(fault: RedisFaultError) -> TransportError:
    """Turn a fault into the error that callers know."""
    error = TransportError(str(fault))
    error.refused = fault.refused
    return error


def without_traceback(error: Exception) -> Exception:
    """Strip an error of its traceback and context, which fill a screen, and of what acts on a terminal."""
    error.__cause__ = error.__context__ = None
    if isinstance(error, hiredis.HiredisError):  # The server wrote the text.
        error.args = (printable(_said(error)),)
    return error.with_traceback(None)


def _said(error: BaseException) -> str:
    text = str(error).strip()
    # Redis in protected mode goes on with advice, first of all to open it to everybody.
    text = text.partition(" If you want to connect")[0]
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in text:
        return "connection refused"  # asyncio tells of each address that a host has.
    if isinstance(error, ConnectionResetError):
        return "connection reset by peer"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, socket.gaierror):
        return error.strerror or text
    return text or type(error).__name__


def outcome_of(text: str) -> Outcome:
    """Return ``unsent`` if the server cannot take the command yet, ``refused`` if it does not want it."""
    return "unsent" if text.startswith(_NOT_YET) else "refused"


def explain(error: BaseException) -> str:
    """Describe an error in a line, with a hint if its cause is plain."""
    text = _said(error)
    for sign, advice in _ADVICE:
        if sign in text.lower():
            return f"{text.rstrip('.')}. {advice}"
    return text


def explain_connect(error: BaseException, *, tls: bool) -> str:
    """Describe a failure to connect, of which the same words tell more than later."""
    text = _said(error)
    for sign, advice in _TLS_ADVICE if tls else _PLAIN_ADVICE:
        if sign in text.lower():
            return f"{text.rstrip('.')}. {advice}"
    return explain(error)


_NOT_YET: Final = ("LOADING ", "READONLY ", "MASTERDOWN ", "BUSY ", "TRYAGAIN ", "ERR max number of clients")
CLOSED: Final = "Connection closed by server."
IS_IT_TLS: Final = "Does that port speak TLS? Without it, the scheme is redis://."
IS_IT_REDIS: Final = "Is that the port of a Redis, and is it reached without TLS? With it, the scheme is rediss://."
IS_IT_REDIS_AT_ALL: Final = "Is that a Redis, with TLS or without as the URL says?"
IS_IT_WELL: Final = "Is it stopped, or very busy (SLOWLOG GET)?"
_CLOSED_IN_TLS: Final = (
    "Redis closed it at once, without a word: does it want a client's certificate (ssl_certfile and ssl_keyfile), or "
    "has it reached its maxclients?"
)
_TLS_ADVICE: Final = (
    ("certificate has expired", "The server's certificate must be renewed, or this machine's clock is wrong."),
    ("mismatch, certificate is not valid for", "Connect by a name that the server's certificate has."),
    ("key values mismatch", "ssl_keyfile is not the key of ssl_certfile."),
    ("alert unknown ca", "Redis does not know the authority that signed ssl_certfile."),
    ("certificate required", "Redis wants a client's certificate that it trusts: ssl_certfile and ssl_keyfile."),
    ("reset by peer", _CLOSED_IN_TLS),
    ("closed by server", _CLOSED_IN_TLS),
    ("wrong version number", IS_IT_TLS),
    ("record layer failure", IS_IT_TLS),
)

_CLOSED_AT_ONCE: Final = "Redis closed it at once, without a word: does it want TLS? Then the scheme is rediss://."
_PLAIN_ADVICE: Final = (
    ("reset by peer", _CLOSED_AT_ONCE),
    ("closed by server", _CLOSED_AT_ONCE),
    ("protocol error", IS_IT_REDIS),
)

IS_IT_RUNNING: Final = "Is Redis running there?"
SAY_WHERE: Final = "`fibo-worker dev` starts one to try; CELERY_BROKER_URL, or broker_url=, says where yours is."
_CREDENTIALS: Final = (
    "Check the user name and the password in the URL. A password alone has a colon before it: redis://:password@host."
)
_IS_NO_SENTINEL: Final = "That is a Redis, and no Sentinel, whose port is 26379 by default."
_ADVICE: Final = (
    ("connection refused", IS_IT_RUNNING),
    ("there is no such file", "Is Redis running, and is that the path of its socket?"),
    ("name or service not known", "Is the host's name right?"),
    ("certificate verify failed", "Give the authority that signed it: ssl_ca_certs."),
    ("wrongpass", _CREDENTIALS),
    ("invalid username-password", _CREDENTIALS),
    ("noauth", "Redis wants a password: redis://:password@host."),
    ("authentication required", "Redis wants a password: redis://:password@host."),
    ("in protected mode", "Give that Redis a password (requirepass), and the URL, too: redis://:password@host."),
    ("max number of clients", "Raise its maxclients, or see whose all those connections are: CLIENT LIST."),
    ("without any password configured", "This Redis has no password: leave it out of the URL."),
    (
        "db index is out of range",
        "The URL ends in the number of a database, of which Redis has 16 by default: 0 to 15.",
    ),
    ("unknown command 'sentinel'", _IS_NO_SENTINEL),
    ("unknown command `sentinel`", _IS_NO_SENTINEL),  # before Redis 7
    ("no master found", "Check master_name and the Sentinels' addresses."),
    ("no permissions", "The ACL of the Redis user must allow the command, and the key or channel: see ACL LOG."),
)
