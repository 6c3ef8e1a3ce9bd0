"""A loop that is closed, a fork, and an interpreter that ends, while calls are in flight: nothing hangs or complains.

Rarer ends are in tests/endurance.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import sys

import pytest
from support.endings import CALLS_IN_FLIGHT, end, forking
from support.waiting import eventually

from fibo_client import ClientStateError, FiboClient

pytestmark = pytest.mark.timeout(180)  # Longer than it takes to find out that a program hangs.


def test_an_interrupt_ends_a_program_with_calls_in_flight_quietly(server):
    program = CALLS_IN_FLIGHT + (
        "try:\n"
        "    asyncio.run(main())\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )  # fmt: skip
    assert end(server.url, program, kill=signal.SIGINT) == (0, "interrupted\n", "")


def test_a_program_that_leaves_clients_open_and_calls_unanswered_ends_quietly(server):
    program = """
    async def dropped():
        client = await FiboClient(URL).open()
        await begun(client, client.fibonacci(3))

    async def kept():
        global client
        client = await FiboClient(URL).open()
        await begun(client, client.fibonacci(3))

    async def in_a_thread():
        async with FiboClient(URL) as client:
            (call,) = await begun(client, client.fibonacci(3))
            ready.set()
            await call

    asyncio.run(dropped())
    asyncio.run(kept())
    gc.collect()
    ready = threading.Event()
    threading.Thread(target=asyncio.run, args=(in_a_thread(),), daemon=True).start()
    ready.wait()
    """
    assert end(server.url, program) == (0, "", "")


def test_a_forked_child_is_refused_and_does_not_disturb_its_parent(server):
    program = forking("""
        pid = os.fork()
        if not pid:
            try:
                in_child(client)
                gc.collect()
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """)
    assert end(server.url, program) == (0, "", "")


def test_a_task_that_exits_ends_the_loop_with_calls_in_flight_quietly(server, capfd, caplog):
    async def main() -> None:
        async with FiboClient(server.url) as client:
            call = asyncio.create_task(client.fibonacci(3))

            async def sent() -> bool:
                return client.stats().pending > 0

            await eventually(sent)
            asyncio.get_running_loop().call_soon(sys.exit, 3)
            await call

    with pytest.raises(SystemExit) as ended:
        asyncio.run(main())
    assert ended.value.code == 3
    gc.collect()
    assert (*capfd.readouterr(), caplog.messages) == ("", "", [])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Nothing of it can be closed any more.
def test_a_client_whose_loop_is_closed_says_so_and_does_not_hang(server):
    def use() -> None:
        with asyncio.Runner() as runner:
            client = runner.run(FiboClient(server.url).open())
            runner.run(client.ready([client.celery.result("a")]))
        for call in (functools.partial(client.fibonacci, 3), client.celery.ping, client.aclose):
            with pytest.raises(ClientStateError, match="opened on has been closed; open another client"):
                asyncio.run(call())

    use()
    gc.collect()
