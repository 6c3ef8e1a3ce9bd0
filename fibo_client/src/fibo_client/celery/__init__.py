"""The general async Celery client. It knows nothing of Fibonacci."""
