"""The tasks that the workers run: ``celery -A proj.tasks worker -Q reports``."""

from celery import Celery

app = Celery("proj", broker="redis://localhost:6379/0", backend="redis://localhost:6379/0")


@app.task(name="proj.tasks.render", bind=True)
def render(self, name: str, pages: int) -> str:
    if pages < 1:
        raise ValueError("a report has a page at least")
    for page in range(1, pages + 1):
        self.update_state(state="PROGRESS", meta={"page": page})
    return f"{name}.pdf"
