"""A worker that Sentry watches: ``celery -A worker worker``."""

import sentry_sdk
from celery.signals import celeryd_init
from proj.tasks import app  # or the app with your own tasks

__all__ = ["app"]


@celeryd_init.connect(weak=False)
def watch(**_):
    sentry_sdk.init(traces_sample_rate=1.0)  # SENTRY_DSN says where to
