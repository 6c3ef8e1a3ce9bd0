"""A service that has reports rendered by Celery workers."""
