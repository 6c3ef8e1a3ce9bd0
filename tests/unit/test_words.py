"""What the log and errors may say: Redis is named by its drivers, and where the user has named it."""

import ast
import re
from pathlib import Path

import fibo_client

SOURCE = Path(fibo_client.__file__).parent
DRIVERS = ("celery/redis/", "celery/brokers/redis.py", "celery/backends/redis.py")
USERS = ("cli/",)
STORES = ("celery/backends/unsupported.py",)
"""It says which result backends there are."""


def texts(path):
    """All text of a module but its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for each in ast.walk(tree):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in docstrings:
            yield each.value


def test_nothing_but_the_drivers_speaks_of_redis_in_what_any_broker_could_cause():
    modules = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
    assert all(any(name.startswith(driver) for name in modules) for driver in DRIVERS)
    speaking = {
        name: text
        for name, path in modules.items()
        if not name.startswith((*DRIVERS, *USERS, *STORES))
        for text in texts(path)
        if re.search(r"\bRedis\b", text)
    }
    assert speaking == {}
