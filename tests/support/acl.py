"""The Redis users that docs/explanation/security.md tells people to make."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from support.servers import TESTS

if TYPE_CHECKING:
    from support.servers import RedisServer

CLIENT, WORKER, FLOWER = "fibo-client", "fibo-worker", "fibo-flower"


def commands() -> dict[str, list[str]]:
    """Read the commands from the page, by the user's name."""
    text = (TESTS.parent / "docs" / "explanation" / "security.md").read_text()
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("ACL SETUSER ")]
    return {line[2]: line for line in lines}


def make_users(server: RedisServer, db: int = 0) -> dict[str, str]:
    """Make the users as they stand there, but for the database. Gives their URLs by their names."""
    urls = {}
    with server.client() as direct:
        for user, command in commands().items():
            direct.execute_command(*[word.replace("&/0.", f"&/{db}.") for word in command])
            password = next(word for word in command if word.startswith(">"))[1:]
            urls[user] = server.database(db).replace("://", f"://{user}:{password}@")
    return urls
