"""With Celery's own client: every get blocks its thread."""

from celery import group
from celery.exceptions import TimeoutError as CeleryTimeoutError
from proj.tasks import add, app, divide


def main():
    result = add.apply_async((2, 3), expires=30)
    print(result.get(timeout=10))

    later = app.AsyncResult(result.id)
    print(later.ready(), later.state)

    print(group(add.s(n, n) for n in range(5)).apply_async().get(timeout=10))

    try:
        divide.delay(1, 0).get(timeout=10)
    except ZeroDivisionError as error:
        print(error)

    try:
        add.apply_async((2, 3), queue="nobody-serves-this").get(timeout=0.3)
    except CeleryTimeoutError:
        print("no answer yet")


main()

# Prints:
# 5
# True SUCCESS
# [0, 2, 4, 6, 8]
# division by zero
# no answer yet
