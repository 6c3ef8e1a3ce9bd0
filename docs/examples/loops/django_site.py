"""A Django site that calls Celery tasks, from plain views and from async ones: ``python django_site.py runserver``."""

import sys

from asgiref.sync import async_to_sync
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

from fibo_client import LoopLocal
from fibo_client.celery import CeleryClient, RemoteTask

celery = LoopLocal(CeleryClient)
sqrt = RemoteTask[[float], float]("tasks.sqrt_task")


async def root_of(x: float) -> float:
    client = await celery.get()
    return await client.call(sqrt(x), timeout=10)


def plain(_request: HttpRequest, x: int) -> JsonResponse:
    return JsonResponse({"root": async_to_sync(root_of)(x)})


async def asynchronous(_request: HttpRequest, x: int) -> JsonResponse:
    return JsonResponse({"root": await root_of(x)})


urlpatterns = [path("plain/<int:x>", plain), path("async/<int:x>", asynchronous)]
settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="of an example", ALLOWED_HOSTS=["127.0.0.1"])
application = get_asgi_application()  # uvicorn django_site:application

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
