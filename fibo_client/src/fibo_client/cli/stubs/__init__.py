"""``fibo stubs``: a module of typed stubs from a Celery app, for `fibo_client.celery.remote_task`.

`loading` imports the app, `tasks` looks at its tasks, `writing` makes the text, `reading` reads it back without running
it, `drift` compares, and `command` does one after the other. Only `loading` runs code of the app's.
"""
