"""The same tasks, with a prefix before every key: ``celery -A proj.prefixed worker``."""

from proj.tasks import app

app.conf.broker_transport_options = {"global_keyprefix": "shop:"}
app.conf.result_backend_transport_options = {"global_keyprefix": "shop:"}
