"""The Celery protocol as values and bytes. No I/O, no clock, no randomness: callers pass in times and random bytes."""
