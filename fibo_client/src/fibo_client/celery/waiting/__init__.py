"""Waiting for results."""
