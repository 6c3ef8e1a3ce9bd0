"""The exit statuses of ``fibo``."""

from __future__ import annotations

import enum
from typing import Final

__all__ = ["EXIT_CODES", "ExitCode"]


class ExitCode(enum.IntEnum):
    """An exit status. After a signal it is 128 plus the signal's number, as in a shell."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_ANSWER = 3
    NO_REDIS = 4
    NO_WORKER = 5


EXIT_CODES: Final = """\
\b
Exit codes:
    0  done
    1  a task failed or was revoked, stubs have drifted, or the output could not be written
    2  wrong arguments, a wrong URL or setting, no such app; or the extra is not installed
    3  no answer in time, or none yet
    4  Redis cannot be reached, or refused
    5  no worker answers
  130  stopped by Ctrl-C (129, 143: by SIGHUP, SIGTERM)
  141  the reader of the output went away, as with '| head'
"""
"""The table, as ``fibo --help`` shows it."""
