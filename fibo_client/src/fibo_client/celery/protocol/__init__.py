"""The Celery protocol as values and bytes. No I/O, no clock, no randomness: what varies is handed in."""
