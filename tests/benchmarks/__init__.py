"""How fast the client is, measured beside Celery's own: ``python -m tests.benchmarks``."""
