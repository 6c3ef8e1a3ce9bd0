"""For web services, by plain ASGI. It imports no framework."""

from fibo_client.asgi.middleware import FiboMiddleware
from fibo_client.asgi.problem import Problem
from fibo_client.asgi.readiness import Readiness

__all__ = ["FiboMiddleware", "Problem", "Readiness"]
