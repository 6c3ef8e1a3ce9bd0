"""What makes a worker hard to stop, for any Celery app: ``app = protect(Celery("shop", ...))``.

Nothing here knows which tasks the app has.
"""

from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters
from fibo_worker.guard.installation import protect
from fibo_worker.guard.settings import GuardSettings

__all__ = ["DeadLetter", "DeadLetters", "GuardSettings", "protect"]
