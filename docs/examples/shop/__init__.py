"""A Celery app of your own, protected, and the service in front of it."""
