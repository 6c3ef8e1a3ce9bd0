"""Fibonacci numbers in few tasks: how they are packed into chunks, and the calls that send them."""
