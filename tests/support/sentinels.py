"""A real Sentinel set on loopback: three Sentinels that watch a master and its replica."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

import redis as redis_py
from redis.exceptions import RedisError

from fibo_worker.child import Child
from fibo_worker.dev import find_redis_server
from support.servers import RedisServer, free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MASTER = "fibo"
"""The name that the Sentinels know the master by."""

_CONF = """\
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {master} 2
sentinel down-after-milliseconds {name} 500
sentinel failover-timeout {name} 3000
"""


class Sentinel:
    """One Sentinel.

    Attributes:
        port: The port that it listens on.
    """

    def __init__(self, folder: Path, master: int, name: str = MASTER) -> None:
        self.port = free_port()
        self._name = name
        folder.mkdir()
        conf = folder / "sentinel.conf"
        conf.write_text(_CONF.format(port=self.port, folder=folder, name=name, master=master))
        self._child = Child([str(find_redis_server()), str(conf), "--sentinel"], name="sentinel", env={"LC_ALL": "C"})

    def ask(self, *command: str) -> dict[bytes, bytes]:
        """Ask for a list of names and values, as a dict."""
        answer = self.tell(*command)
        return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))

    def tell(self, *command: str):
        """Send it a command. Gives the raw answer."""
        connection = redis_py.Connection(host="127.0.0.1", port=self.port, protocol=2)
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def is_ready(self) -> bool:
        """Whether it knows the master, the replica and the other Sentinels."""
        try:
            known = self.ask("SENTINEL", "MASTER", self._name)
        except (RedisError, OSError):
            return False
        names = (b"flags", b"num-other-sentinels", b"num-slaves")
        if [known[name] for name in names] != [b"master", b"2", b"1"]:
            return False
        with contextlib.suppress(RedisError):
            return self.tell("SENTINEL", "CKQUORUM", self._name).startswith(b"OK 3")
        return False

    def knows_its_master(self) -> bool:
        """Whether it has reached the master, and so tells its address."""
        with contextlib.suppress(RedisError, OSError):
            return self.ask("SENTINEL", "MASTER", self._name)[b"flags"] == b"master"
        return False

    def master(self) -> int:
        """The port of the master, as it knows it."""
        return int(self.tell("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)[1])

    def kill(self) -> None:
        """End it at once. Twice is harmless."""
        self._child.stop(signal.SIGKILL)


class SentinelSet:
    """Three Sentinels, the master and the replica. A `with` block of `running` starts them.

    Attributes:
        master: What is master at first.
        replica: What is its replica at first.
        sentinels: The Sentinels.
    """

    def __init__(self, master: RedisServer, replica: RedisServer, sentinels: list[Sentinel]) -> None:
        self.master = master
        self.replica = replica
        self.sentinels = sentinels

    @property
    def url(self) -> str:
        """The URL for a client or a worker. The name of the master is `MASTER`."""
        return ";".join(f"sentinel://127.0.0.1:{each.port}/0" for each in self.sentinels)

    @classmethod
    @contextlib.contextmanager
    def running(cls, folder: Path) -> Iterator[SentinelSet]:
        """Start all, and wait until they know each other.

        Args:
            folder: A folder that is empty.
        """
        with contextlib.ExitStack() as stack:
            options = {"repl-diskless-sync-delay": "0"}
            master = stack.enter_context(RedisServer(options=options))
            replica = stack.enter_context(RedisServer(options=options))
            with replica.client() as direct:  # Each version spells an option of two words differently.
                direct.replicaof("127.0.0.1", str(master.port))
            until(lambda: _is_replicating(replica), "the replica does not replicate")
            sentinels = []
            for number in range(3):
                sentinel = Sentinel(folder / str(number), master.port)
                stack.callback(sentinel.kill)
                sentinels.append(sentinel)
            for sentinel in sentinels:
                until(sentinel.is_ready, "the Sentinels do not know each other")
            yield cls(master, replica, sentinels)


def _is_replicating(server: RedisServer) -> bool:
    with server.client() as direct:
        return direct.info("replication").get("master_link_status") == "up"
