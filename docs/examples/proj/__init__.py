"""A Celery project like yours: ``celery -A proj.tasks worker``."""
