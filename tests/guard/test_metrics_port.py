"""What idle clients of the port for metrics take from a worker that may open few files."""

from __future__ import annotations

import os
import signal
import socket
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from support.clients import celery_client
from support.servers import TESTS, free_port
from support.waiting import until

from fibo_worker.child import Child


def test_connections_that_idle_take_nothing_from_the_worker_nor_from_a_scrape(redis_server):
    port, url = free_port(), redis_server.fresh_url()
    command = [sys.executable, "-m", "celery", "-A", "support.poisoned", "worker", "--concurrency", "1"]
    variables = {
        **dict.fromkeys(("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"), url),
        "PYTHONPATH": str(TESTS),
        "FIBO_METRICS_PORT": str(port),
    }
    worker = Child(
        ["sh", "-c", 'ulimit -n 256; exec "$@"', "sh", *command, "--loglevel", "INFO"],
        name="worker",
        env={**os.environ, **variables},
    )
    try:
        worker.wait_until(lambda: " ready." in worker.log.read_text(errors="replace"), 60)
        with celery_client(url) as celery, ExitStack() as idle, redis_server.client() as direct:
            for _ in range(300):
                idle.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as scrape:
                assert "fibo_worker_tasks_running 0.0" in scrape.read().decode()
            assert len(list(Path(f"/proc/{worker.pid}/fd").iterdir())) < 100
            assert len(list(Path(f"/proc/{worker.pid}/task").iterdir())) < 30

            # It has to connect anew, which takes some more.
            direct.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            assert celery.send_task("poison.kill_once", ("/",)).get(timeout=30) == "survived"
            until(lambda: worker.log.read_text().count("Connected to") == 2)
            worker.check()
    finally:
        worker.stop(signal.SIGKILL)
