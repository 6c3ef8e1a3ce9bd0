"""User names and passwords: those of the address, or those that a credential provider gives, which may change."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from redis.credentials import CredentialProvider

from fibo_client.daemon_thread import call_in_daemon_thread
from fibo_client.errors import ConfigError

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Generator

    from fibo_client.celery.redis.address import RedisAddress

Credentials = tuple[str, ...]
"""A password, or a user name and a password. Nothing, where none are needed."""

_ASKS_THE_OTHER: Final = getattr(CredentialProvider, "get_credentials_async", None)
"""It calls `get_credentials`, which may block. redis-py has it from 5.3 on."""

_calling: Final = threading.Lock()
_called: Final[dict[int, concurrent.futures.Future[Any]]] = {}
"""The calls of providers that are under way in threads, by the identity of the provider."""

_renewed: Final[weakref.WeakKeyDictionary[Any, weakref.WeakSet[Any]]] = weakref.WeakKeyDictionary()
"""Who wants to be told, by provider. A provider that streams tells one listener only, and clients may share it."""


async def credentials_of(address: RedisAddress) -> Credentials:
    """Get what to authenticate with.

    Args:
        address: The address.

    Returns:
        The credentials.

    Raises:
        ConfigError: The credential provider gives something else.
        ConnectionError: It failed, perhaps for a while. It does not say how: that may show a secret.
    """
    provider = address.credential_provider
    if provider is None:
        if address.password is None:
            return ()
        return (address.password,) if address.username is None else (address.username, address.password)
    given: Any = (await asyncio.gather(_ask(provider), return_exceptions=True))[0]
    if isinstance(given, BaseException):
        raise ConnectionError(f"credential_provider: it raised {type(given).__name__}")
    credentials = (given,) if isinstance(given, str) else given
    if isinstance(credentials, (tuple, list)) and all(isinstance(each, str) for each in credentials):
        return tuple(credentials)
    raise ConfigError("credential_provider: it must give a password, or a user name and a password, as text")


async def _ask(provider: Any) -> Any:
    own = getattr(type(provider), "get_credentials_async", None)
    if own is None or own is _ASKS_THE_OTHER:
        return await asyncio.wrap_future(_in_thread(provider))
    return await provider.get_credentials_async()


def _in_thread(provider: Any) -> concurrent.futures.Future[Any]:
    """Call a provider, which may block, in a thread of its own, unless it is being called already."""
    # One that hangs costs one thread, however often it is tried to connect, and none that the application needs.
    with _calling:
        called = _called.get(id(provider))
        if called is None:
            called = _called[id(provider)] = call_in_daemon_thread(provider.get_credentials)
            called.add_done_callback(lambda _: _called.pop(id(provider)))
    return called


class Renewal:
    """Has new credentials told that a streaming provider gets, such as the tokens of a cloud.

    Args:
        tell: Is called on the event loop with the credentials.
    """

    def __init__(self, tell: Callable[[Credentials], None]) -> None:
        self._tell = tell
        self._loop = asyncio.get_running_loop()

    def begin(self, provider: Any) -> None:
        """Have new credentials told from now on, if the provider streams any."""
        if not hasattr(provider, "on_next"):
            return
        listeners = _renewed.get(provider)
        if listeners is None:
            listeners = _renewed[provider] = weakref.WeakSet()
            provider.on_next(lambda token: _tell_all(listeners, token))
        listeners.add(self)

    def take(self, credentials: Credentials) -> None:
        """Tell of credentials, from whatever thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, credentials)


def _tell_all(listeners: weakref.WeakSet[Renewal], token: Any) -> _Done:
    username = token.try_get("oid")
    credentials = (token.get_value(),) if username is None else (username, token.get_value())
    for each in list(listeners):
        each.take(credentials)
    return _Done()


class _Done:
    """Can be awaited, and need not be: a provider awaits its listener or not, as it was started."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield
