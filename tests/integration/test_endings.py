"""Programs that fork, close their event loop or end while calls are in flight: what they say, and that they end.

Each is a process of its own, and what it writes to its error output is compared in full.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

HEAD = """
import asyncio, gc, multiprocessing, os, signal, sys, threading
from fibo_client import ClientStateError, FiboClient
URL = sys.argv[1]
"""

PATIENCE = 20
"""Seconds after which a program is taken to hang. All end within one, on a machine that is not busy."""


def end(server, program, *, kill=None):
    """Run a program; kill it as soon as it says that it is ready. Give its status, its output and its errors."""
    command = [sys.executable, "-c", HEAD + textwrap.dedent(program), server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            if kill is not None:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                process.send_signal(kill)
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    return process.returncode, out, err


CALLS_IN_FLIGHT = """
    async def main():
        async with FiboClient(URL) as client:
            calls = [asyncio.create_task(client.fibonacci(n)) for n in range(5)]
            calls.append(asyncio.create_task(client.celery.result("x").get()))
            calls.append(asyncio.create_task(client.celery.call("x")))
            # Said by the loop: a signal that comes while `main` itself runs would end `main` by an error of its own.
            asyncio.get_running_loop().call_later(0.2, lambda: print("ready", flush=True))
            await asyncio.gather(*calls)
"""


def test_an_interrupt_ends_a_program_with_calls_in_flight_quietly(server):
    program = textwrap.dedent(CALLS_IN_FLIGHT) + textwrap.dedent("""
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert end(server, program, kill=signal.SIGINT) == (0, "interrupted\n", "")


def test_a_handler_of_sigterm_that_exits_ends_a_program_with_calls_in_flight_quietly(server):
    program = textwrap.dedent(CALLS_IN_FLIGHT) + textwrap.dedent("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        asyncio.run(main())
    """)
    assert end(server, program, kill=signal.SIGTERM) == (7, "", "")


def test_a_task_that_exits_ends_a_program_with_calls_in_flight_quietly(server):
    program = """
    async def main():
        async with FiboClient(URL) as client:
            call = asyncio.create_task(client.fibonacci(3))
            await asyncio.wait([call], timeout=0.2)
            asyncio.get_running_loop().call_soon(sys.exit, 3)
            await call
    asyncio.run(main())
    """
    assert end(server, program) == (3, "", "")


@pytest.mark.parametrize("keep", ["global client", "client = None"])
def test_a_program_that_never_closes_its_client_ends_quietly(server, keep):
    program = f"""
    async def main():
        {keep}
        client = await FiboClient(URL).open()
        await asyncio.wait([asyncio.create_task(client.fibonacci(3))], timeout=0.2)
    asyncio.run(main())
    gc.collect()
    """
    assert end(server, program) == (0, "", "")


def test_a_loop_in_a_daemon_thread_does_not_keep_a_program_from_ending(server):
    program = """
    def work():
        async def main():
            async with FiboClient(URL) as client:
                asyncio.get_running_loop().call_later(0.2, ready.set)
                await client.fibonacci(3)
        asyncio.run(main())
    ready = threading.Event()
    threading.Thread(target=work, daemon=True).start()
    ready.wait()
    """
    assert end(server, program) == (0, "", "")


def test_a_client_whose_loop_is_closed_says_so_and_does_not_hang(server):
    program = """
    with asyncio.Runner() as runner:
        client = runner.run(FiboClient(URL).open())
        runner.run(client.ready([client.celery.result("a")]))
    for use in (lambda: client.fibonacci(3), client.celery.ping, client.aclose):
        try:
            asyncio.run(use())
        except ClientStateError as error:
            print(error)
    del client
    gc.collect()
    """
    status, out, err = end(server, program)
    assert (status, err) == (0, "")
    (line,) = set(out.splitlines())
    assert "the event loop that this client was opened on has been closed; open another client" in line
    assert out.count("\n") == 3


FORK = """
    def in_child(client):
        uses = (
            lambda: client.fibonacci(3), lambda: client.sqrt(4.0), lambda: client.submit(3), client.celery.ping,
            lambda: client.celery.call("x", task_id="1"), lambda: client.celery.result("a").get(),
            lambda: client.celery.result("a").forget(), lambda: client.celery.revoke("a"),
        )
        for use in uses:
            try:
                asyncio.run(use())  # on a loop of the child's own
            except ClientStateError as error:
                assert "before this process was forked" in str(error), error
            else:
                raise AssertionError("it was not refused")
            try:
                use().send(None)  # on the copy of the parent's
            except ClientStateError as error:
                assert "before this process was forked" in str(error), error
            else:
                raise AssertionError("it was not refused")
        asyncio.run(client.aclose())
        asyncio.run(client.aclose())

    async def main():
        async with FiboClient(URL) as client:
            answer = client.celery.result("b")
            waiting = asyncio.create_task(answer.get(timeout=15))
            await client.ready([client.celery.result("a")])
            while client.celery.engine._watcher._subscription is None:
                await asyncio.sleep(0.01)
            before = await connections()
            STEP
            assert await client.ready([client.celery.result("a")]) == [False]
            await redis.set("celery-task-meta-b", META)
            await redis.publish("celery-task-meta-b", META)
            assert await waiting == 37
            assert await connections() == before, "a connection of the parent was lost"
            assert client.stats().reconnects == 0

    META = '{"status": "SUCCESS", "result": 37, "traceback": null, "task_id": "b"}'

    async def connections():
        return {each["id"] for each in await redis.client_list() if each["name"] != "own"}

    import redis.asyncio
    redis = redis.asyncio.Redis.from_url(URL, client_name="own")

    async def all():
        async with redis:
            await redis.flushall()
            await main()

    asyncio.run(all())
"""

BY_OS = """
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
"""

BY_MULTIPROCESSING = """
            process = multiprocessing.get_context("fork").Process(target=in_child, args=(client,))
            process.start()
            await asyncio.to_thread(process.join)
            assert process.exitcode == 0
"""


@pytest.mark.parametrize("step", [BY_OS, BY_MULTIPROCESSING], ids=["os.fork", "multiprocessing"])
def test_a_forked_child_is_refused_and_does_not_disturb_its_parent(server, step):
    program = FORK.replace("            STEP\n", step.lstrip("\n"))
    assert end(server, program) == (0, "", "")
