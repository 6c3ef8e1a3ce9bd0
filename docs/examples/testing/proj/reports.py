"""What the service does with its workers."""

from fibo_client import FiboClient, ResultTimeoutError, TaskFailedError
from fibo_client.celery import CeleryClient, RemoteTask

RENDER = RemoteTask[[str, int], str]("proj.tasks.render")


async def report(celery: CeleryClient, name: str, pages: int, timeout: float = 5.0) -> str:
    """Have a report rendered, or say why there is none."""
    try:
        return await celery.call(RENDER(name, pages), queue="reports", timeout=timeout)
    except ResultTimeoutError:
        return "It takes longer than usual."
    except TaskFailedError as error:
        return f"It could not be rendered ({error.exc_type})."


async def rendered_pages(celery: CeleryClient, name: str, pages: int) -> list[int]:
    """Have a report rendered, and note each page that is done."""
    handle = await celery.send(RENDER(name, pages), queue="reports")
    return [meta.result["page"] async for meta in handle.updates(timeout=5) if meta.state == "PROGRESS"]


async def rabbits(fibo: FiboClient, months: int) -> list[int]:
    """Tell how many pairs there are in each month."""
    return await fibo.fibonacci_many(range(1, months + 1), timeout=5)
