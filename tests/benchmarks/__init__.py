"""How fast the client is, measured beside Celery and other task systems: ``python -m tests.benchmarks``."""
