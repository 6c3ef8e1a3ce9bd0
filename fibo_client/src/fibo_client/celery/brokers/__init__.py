"""Brokers: the contract, and those that fulfil it."""
