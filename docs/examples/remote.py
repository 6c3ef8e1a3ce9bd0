"""The Celery tasks of proj.tasks:app. Written by fibo stubs; do not edit."""

# mypy: disable-error-code="empty-body"
# pyright: basic

from fibo_client.celery import remote_task


@remote_task("proj.tasks.add", queue="proj")
def add(x: int, y: int) -> int: ...


@remote_task("proj.tasks.divide", queue="proj")
def divide(x: float, y: float) -> float: ...


@remote_task("proj.tasks.resize", queue="proj")
def resize(pictures: int) -> str: ...
