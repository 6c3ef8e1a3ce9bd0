"""Hypothesis without a deadline: a machine that is busy is no reason to fail."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
