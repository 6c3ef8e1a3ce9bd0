"""A private RabbitMQ on loopback, for a program to move from. It ends with all that it started."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from typing import TYPE_CHECKING

from fibo_worker.child import Child
from support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOW_TO_GET_ONE = "rabbitmq-server is not here: apt install rabbitmq-server"

# Debian's command on the PATH changes its user, and uses the files of the system's RabbitMQ.
_PLACES = ("/usr/lib/rabbitmq/bin",)


def find_rabbitmq() -> tuple[str, str] | None:
    """Find the programs of the server and of Erlang's port mapper."""
    server = shutil.which("rabbitmq-server", path=os.pathsep.join(_PLACES))
    mapper = shutil.which("epmd")
    return (server, mapper) if server and mapper else None


@contextlib.contextmanager
def running_rabbitmq(server: str, mapper: str, folder: Path) -> Iterator[str]:
    """Run one, with Erlang's port mapper beside it, which it would else start as a daemon. Gives its URL."""
    port, distribution, names = free_port(), free_port(), free_port()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        # For every node, the one that only looks for a port mapper included.
        "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_NODENAME": f"fibo-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
    }
    with contextlib.ExitStack() as stack:
        for command, name, where in (([mapper], "epmd", names), ([server], "rabbitmq", port)):
            child = Child(command, name=name, env=env)
            stack.callback(child.stop, signal.SIGKILL)
            child.wait_until(lambda where=where: _listens(where), 60)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
