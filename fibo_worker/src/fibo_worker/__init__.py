"""A Celery worker that computes exact Fibonacci numbers and square roots."""

from fibo_worker._version import __version__

__all__ = ["__version__"]
