"""The client beside each version of Celery in one environment, with the redis-py that Celery's kombu wants there."""

import json
import subprocess
from pathlib import Path

import pytest
from support.ca import Authority, tls_relay
from support.environments import find_uv
from support.sentinels import MASTER, Sentinel
from support.waiting import until

from fibo_client._version import __version__

# It may have to make the environment first.
pytestmark = pytest.mark.timeout(300)

PROGRAM = Path(__file__).with_name("beside.py")

REDIS_PY = {(5, 3): "5.0.0", (5, 4): "5.2.", (5, 5): "5.2.", (5, 6): "6.4.", (5, 7): "8."}
"""What redis-py stands beside each Celery: the oldest that the client lets in, the newest, and what is between."""


@pytest.fixture(scope="session")
def ways(redis_server, tmp_path_factory):
    """The port of a Sentinel that watches the Redis of all workers, that Redis' port with TLS, and its authority."""
    folder = tmp_path_factory.mktemp("ways")
    authority = Authority(folder)
    sentinel = Sentinel(folder / "sentinel", redis_server.port)
    try:
        until(sentinel.knows_its_master, "the Sentinel does not know its master")
        with tls_relay(redis_server.port, authority.sign("good", "127.0.0.1"), authority.cert) as port:
            yield sentinel.port, port, authority.cert
    finally:
        sentinel.kill()


def test_the_client_works_beside_celery_in_one_environment(worker, ways):
    sentinel, tls, authority = ways
    db = worker.url.rpartition("/")[2]
    arguments = {
        "url": worker.url,
        "sentinel": f"sentinel://127.0.0.1:{sentinel}/{db}",
        "master": MASTER,
        "tls": f"rediss://127.0.0.1:{tls}/{db}",
        "ca": authority,
    }
    words = [f"{name}={value}" for name, value in arguments.items()]
    done = run(worker.python, "-I", "-W", "error", PROGRAM, *words)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)

    celery, redis_py = seen.pop("versions").values()
    assert celery.startswith("{}.{}.".format(*worker.version))
    assert redis_py.startswith(REDIS_PY[worker.version])
    used = [5, list(range(1, 21))]
    assert seen == {
        "use": dict.fromkeys(["push", "poll", "resp2", "sentinel", "tls", "provider", "async provider"], used),
        "ask": {
            "ping": [worker.node],
            "active": {worker.node: []},
            "registered": True,
            "revoked by": 1,
            "diagnosis": "FINISHED",
            "terminated": True,
        },
        "fibo": [3, 2, 21, 8, 55],
    }


def test_all_that_is_installed_there_goes_together(worker):
    listed = json.loads(run(find_uv(), "pip", "list", "--format", "json", "--python", worker.python).stdout)
    assert {each["name"]: each["version"] for each in listed}["fibo-client"] == __version__
    checked = run(find_uv(), "pip", "check", "--python", worker.python)
    assert checked.returncode == 0, checked.stderr


def run(*command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
