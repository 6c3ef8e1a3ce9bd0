"""A program of docs/examples/sentry, with a transport of the tests' own: what would go to Sentry goes to a file.

REPORTED names the program, REPORTS_FILE the file. It gets the items of each envelope, one a line.
"""

import functools
import importlib
import json
import os

import sentry_sdk
from sentry_sdk.transport import Transport

__all__ = ["app"]


class ToFile(Transport):
    """Appends what is to be sent to a file. Several processes do."""

    def capture_envelope(self, envelope):
        lines = [f"{json.dumps(item.payload.json)}\n" for item in envelope.items if item.payload.json]
        out = os.open(os.environ["REPORTS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(out, "".join(lines).encode())
        os.close(out)


sentry_sdk.init = functools.partial(sentry_sdk.init, "https://public@sentry.invalid/1", transport=ToFile)
app = importlib.import_module(os.environ["REPORTED"]).app
