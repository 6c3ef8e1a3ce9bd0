"""The Redis users that docs/explanation/security.md tells people to make."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

from support.servers import TESTS

if TYPE_CHECKING:
    from pathlib import Path

    from support.servers import RedisServer

CLIENT, WORKER, FLOWER = "fibo-client", "fibo-worker", "fibo-flower"

PAGE = TESTS.parent / "docs" / "explanation" / "security.md"


def lines(user: str | None = None) -> list[list[str]]:
    """Read the page's commands in order, each split into words: all of them, or those of one user."""
    found = [shlex.split(line) for line in PAGE.read_text().splitlines() if line.startswith("ACL SETUSER ")]
    return [words for words in found if user in (None, words[2])]


@functools.cache
def version(program: Path) -> tuple[int, int]:
    """Ask a server program for its Redis version, or for the one that it is compatible with."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = re.search(r"v=(\d+)\.(\d+)", said).groups()
    return int(major), int(minor)


def takes(words: list[str], major: int) -> bool:
    """Tell whether a Redis of this version accepts a line. Selectors, in brackets, came with 7."""
    return major >= 7 or not any(word.startswith("(") for word in words)


def make_user(server: RedisServer, words: list[str], db: int = 0) -> str:
    """Make a user by a line of the page, with this database. Gives its URL."""
    with server.client() as direct:
        direct.execute_command(*[word.replace("&/0.", f"&/{db}.") for word in words])
    password = next((word[1:] for word in words if word.startswith(">")), "none")
    return server.database(db).replace("://", f"://{words[2]}:{password}@")


def make_users(server: RedisServer, db: int = 0) -> dict[str, str]:
    """Make each user by the first of its lines that this server accepts. Gives URLs by name."""
    with server.client() as direct:
        major = int(direct.info("server")["redis_version"].partition(".")[0])
    users = (CLIENT, WORKER, FLOWER)
    return {user: make_user(server, next(words for words in lines(user) if takes(words, major)), db) for user in users}


def refusals(server: RedisServer, *users: str) -> list[tuple[str, str, str]]:
    """What the server refused to these users, or to any, and why, but for the name of the library."""
    with server.client(decode_responses=True) as direct:
        found = [(entry["username"], entry["reason"], entry["object"]) for entry in direct.acl_log()]
    named = (("command", "client"), ("command", "client|setinfo"))
    return [each for each in found if each[1:] not in named and (not users or each[0] in users)]
