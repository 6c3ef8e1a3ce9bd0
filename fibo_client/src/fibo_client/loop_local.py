"""One client for each event loop, for programs that have several: one after the other, or one a thread.

A client runs on the event loop that it was opened on. Django's ``async_to_sync``, ``asyncio.run`` in a Celery task, and
pytest give each call, task or test a loop of its own.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["LoopLocal"]

_CLIENTS: Final = "_fibo_clients"
"""The attribute of an event loop that holds its clients. Whatever else held them would hold their loop, too, which a
client knows, so that a loop that is dropped would never be freed."""


class _Client(Protocol):
    async def open(self) -> Any: ...

    async def aclose(self) -> None: ...


C = TypeVar("C", bound=_Client)


class LoopLocal(Generic[C]):
    """A client for each event loop: opened when it is first asked for there, and closed when the loop ends.

    ::

        celery = LoopLocal(CeleryClient)  # of a module, for all threads and loops


        async def report(days):
            client = await celery.get()
            return await client.call("shop.report", (days,))


        def view(request):
            return JsonResponse({"report": async_to_sync(report)(7)})

    A loop ends with ``asyncio.run``, an `asyncio.Runner`, or whatever else calls ``loop.shutdown_asyncgens()``. Who
    closes a loop without that awaits `aclose` before. If nobody does, the client's connections stay until Python
    collects the loop, which is told by a ResourceWarning; the tasks of its callers are not revoked, and expire.

    There are as many clients as there are loops that used one and have not ended. It needs no lock, and after a fork
    each process opens clients of its own.

    Args:
        factory: Makes a client: `FiboClient`, `CeleryClient`, or a function without arguments.

    Raises:
        TypeError: It is not callable.
    """

    def __init__(self, factory: Callable[[], C]) -> None:
        if not callable(factory):
            raise TypeError(f"factory must make a client for each loop, not be one: {type(factory).__name__}")
        self._factory = factory

    async def get(self) -> C:
        """Give the client of the running event loop, which is opened now if there is none yet.

        Returns:
            The client, for this loop alone. It is not to be closed, but by `aclose`.
        """
        loop = asyncio.get_running_loop()
        clients = _clients_of(loop)
        opened = clients.get(self)
        if opened is None or opened.pid != os.getpid():
            opened = clients[self] = _Opened(self._factory)
        return cast("C", await opened.get())

    async def aclose(self) -> None:
        """Close the client of the running event loop, if there is one. `get` opens another."""
        opened = _clients_of(asyncio.get_running_loop()).pop(self, None)
        if opened is not None and opened.pid == os.getpid():
            await opened.aclose()


class _Opened:
    """A client, which an async generator keeps open: that is what an event loop closes when it ends."""

    def __init__(self, factory: Callable[[], _Client]) -> None:
        self.pid: int = os.getpid()
        self._factory = factory
        self._opening = asyncio.Lock()
        self._keeper: AsyncGenerator[_Client, None] | None = None
        self._client: _Client

    async def get(self) -> _Client:
        async with self._opening:
            if self._keeper is None:
                keeper = _keep(self._factory())
                self._client = await anext(keeper)
                self._keeper = keeper
        return self._client

    async def aclose(self) -> None:
        async with self._opening:
            if self._keeper is not None:
                await self._keeper.aclose()


async def _keep(client: _Client) -> AsyncGenerator[_Client, None]:
    await client.open()
    try:
        yield client
    finally:
        await client.aclose()


def _clients_of(loop: asyncio.AbstractEventLoop) -> dict[LoopLocal[Any], _Opened]:
    clients: dict[LoopLocal[Any], _Opened] | None = getattr(loop, _CLIENTS, None)
    if clients is None:
        clients = {}
        setattr(loop, _CLIENTS, clients)
    return clients
