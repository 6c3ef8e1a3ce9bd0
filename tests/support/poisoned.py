"""fibo-worker's own app, with more tasks, which harm their process.

``celery -A support.poisoned worker``, with the settings of fibo-worker in the environment.
"""

import os
import select
import signal
import time
from pathlib import Path

from celery.concurrency.asynpool import AsynPool
from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.worker.control import control_command

from fibo_worker.app import create_app

# Celery may miss the end of a process, and then checks every five seconds. There is no setting for that.
AsynPool.timers = property(lambda pool: {pool.maintain_pool: 0.1})

app = create_app()


@app.task(name="poison.kill")
def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="poison.kill_once")
def kill_once(path):
    """Kill the process once. A file records that it happened."""
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@app.task(name="poison.memory")
def memory(size):
    return len(bytearray(size))


@app.task(name="poison.gmp")
def gmp(n):
    import gmpy2

    return int(gmpy2.fib(n).bit_length())


@app.task(name="poison.grow")
def grow(size):
    """Keep memory, and tell the process."""
    kept.append(bytearray(b"x") * size)
    return os.getpid()


kept = []


@app.task(name="poison.count")
def count(path, seconds):
    """Record the run, and take a while."""
    with Path(path).open("a") as log:
        log.write(f"{os.getpid()}\n")
    select.select([], [], [], seconds)  # Stands for work. time.sleep fails under faketime.
    return "done"


@app.task(name="poison.spin")
def spin():
    while True:
        pass


@app.task(name="poison.deaf")
def deaf():
    while True:
        try:
            while True:
                pass
        except SoftTimeLimitExceeded:
            pass


@app.task(name="poison.give_back")
def give_back(path, times):
    """Requeue the message until it has come this often."""
    count = len(Path(path).read_text()) if Path(path).exists() else 0
    if count < times:
        Path(path).write_text("x" * (count + 1))
        raise Reject("not yet", requeue=True)
    return count


@app.task(name="poison.leave")
def leave(path, how):
    """Record the run, and exit the process cleanly."""
    with Path(path).open("a") as log:
        log.write(f"{os.getpid()}\n")
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}[how](2)


@control_command(name="poison_echo")
def poison_echo(state, value, **more):
    """Answer with the arguments."""
    return {"value": value, "more": more, "node": state.hostname}


@control_command(name="poison_break")
def poison_break(state):
    raise RuntimeError("no\nline of the log")


def wait_for(gate):
    """Wait for a file: the test, in another process, has no other way to tell a task to go on."""
    while not Path(gate).exists():
        time.sleep(0.01)


@app.task(name="poison.kill_all")
def kill_all(gate=None):
    """Kill the whole worker: at once, or when there is a file of this name."""
    if gate is not None:
        wait_for(gate)
    os.killpg(0, signal.SIGKILL)


@app.task(name="poison.wait")
def wait(log, gate):
    """Record the run, and wait for a file of this name."""
    count(log, 0)
    wait_for(gate)
    return "done"


@app.task(name="poison.raise")
def raise_error(text):
    raise ValueError(text)
