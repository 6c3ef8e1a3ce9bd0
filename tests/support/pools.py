"""Celery's pools, and what a protected worker lacks with each."""

from __future__ import annotations

from typing import Final

from fibo_worker.guard.protections import PROTECTIONS

__all__ = ["POOLS", "lacking", "without"]

POOLS: Final = ("prefork", "threads", "solo")


def lacking(pool: str) -> list[str]:
    """Name the protections that a pool takes away."""
    return [each.name for each in PROTECTIONS.values() if pool not in each.pools]


def without(pool: str) -> dict[str, str]:
    """Return the environment in which a fibo-worker starts with a pool."""
    return {"FIBO_WITHOUT": ",".join(lacking(pool))}
