"""Names that careless code would take for commands, other keys or other JSON."""

from __future__ import annotations

HOSTILE = {
    "newline": "a\nb",
    "RESP": "a\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "RESP at its start": "\r\n$3\r\nabc\r\n",
    "NUL": "a\0b",
    "separator": "a\x06\x163",
    "quotes": '"}, "id": "other", {"',
    "backslash": "a\\",
    "escape": "\\u0000\\",
    "lone surrogate": "a\ud800b",
    "both surrogates": "\ud83d\ude00",
    "emoji": "\U0001f600",
    "right to left": "\u202eabc",
    "very long": "x" * 100_000,
    "result key": "celery-task-meta-victim",
    "binding": "_kombu.binding.celery.pidbox",
    "unacked": "unacked",
    "glob": "*?[a-z]\\*",
    "hash tag": "{a}b",
    "empty": "",
    "space": " ",
    "dots": "../../etc",
    "format": "%s{0}{}${x}%(a)s",
    "markup": "<script>",
    "only a NUL": "\0",
}

NAMES = {
    *("quotes", "backslash", "escape", "emoji", "result key", "binding", "unacked", "glob", "hash tag", "space"),
    *("dots", "format", "markup"),
}
"""Those that may name a task, a queue, a header or an id: printable, and not too long."""


def meant(text: str) -> str:
    """Give what arrives: JSON knows no difference between the two halves of a character and the character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
