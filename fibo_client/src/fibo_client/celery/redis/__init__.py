"""What the broker and the result backend over Redis share: connections, URLs, keys, errors."""
