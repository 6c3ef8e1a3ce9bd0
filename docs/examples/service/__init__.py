"""A service that embeds fibo-client, with a page to try it."""
