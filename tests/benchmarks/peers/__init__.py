"""Other task systems, each as its own users would write it.

`driver` makes an environment for each and runs a script in it: ``with_arq.py``, ``with_taskiq.py``, ``with_celery.py``,
``with_celery_threads.py``, ``with_fibo.py``. A script starts its own worker, measures by `harness` (which needs nothing
but the standard library, as each environment has other packages), stops the worker, and prints JSON.
"""
