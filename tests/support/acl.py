"""The Redis users that docs/security.md tells people to make."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from support.servers import TESTS

if TYPE_CHECKING:
    from support.servers import RedisServer

CLIENT, WORKER = "fibo-client", "fibo-worker"


def commands() -> dict[str, list[str]]:
    """Read the commands from the page, by the user's name."""
    text = (TESTS.parent / "docs" / "security.md").read_text()
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("ACL SETUSER ")]
    return {line[2]: line for line in lines}


def make_users(server: RedisServer) -> dict[str, str]:
    """Make the users as they stand there. Gives the URLs of database 0, by the user's name."""
    urls = {}
    with server.client() as direct:
        for user, command in commands().items():
            direct.execute_command(*command)
            password = next(word for word in command if word.startswith(">"))[1:]
            urls[user] = server.url.replace("://", f"://{user}:{password}@")
    return urls
