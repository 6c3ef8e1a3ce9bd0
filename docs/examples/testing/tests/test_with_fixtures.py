"""The same double, from fixtures: ``fake_celery``, ``fake_fibo``, and a client of one's own."""

import pytest
from fibo_client import FiboClient, TaskFailedError

from proj.reports import RENDER, rabbits, rendered_pages


async def test_progress_is_noted(celery, fake_celery):
    def render(task, name, pages):
        for page in range(1, pages + 1):
            task.update_state(state="PROGRESS", meta={"page": page})
        return f"{name}.pdf"

    # The delay is the time that the client has to begin to follow: a state that nobody follows is not seen later.
    fake_celery.task(RENDER, render, bind=True, delay=0.1)
    assert await rendered_pages(celery, "sales", 3) == [1, 2, 3]


async def test_rabbits_are_counted(fake_fibo):
    async with FiboClient(transport=fake_fibo) as fibo:
        assert await rabbits(fibo, 7) == [1, 1, 2, 3, 5, 8, 13]
    assert fake_fibo.asked == [1, 2, 3, 4, 5, 6, 7]


async def test_a_bad_month_is_told(fake_fibo):
    fake_fibo.numbers[4] = RuntimeError("a fox")
    async with FiboClient(transport=fake_fibo) as fibo:
        with pytest.raises(TaskFailedError, match="a fox"):
            await rabbits(fibo, 7)
