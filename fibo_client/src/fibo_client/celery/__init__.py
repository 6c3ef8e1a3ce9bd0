"""The general async Celery client. It knows nothing of Fibonacci."""

from fibo_client.celery.canvas import Chain, Chord, Group, chain, chord, group
from fibo_client.celery.client import CeleryClient
from fibo_client.celery.config import UNSET, CeleryConfig
from fibo_client.celery.diagnosis import Cause, Diagnosis
from fibo_client.celery.flow_results import ChainResult, ChordResult, FlowResult, GroupResult
from fibo_client.celery.inspect import Inspect, WorkerInfo
from fibo_client.celery.owned_flow import OwnedFlow
from fibo_client.celery.owned_result import OwnedResult
from fibo_client.celery.protocol.jsontypes import JSONType
from fibo_client.celery.protocol.meta import TaskFailure, TaskMeta
from fibo_client.celery.redis.options import RedisOptions
from fibo_client.celery.remote_tasks import RemoteTask, remote_task
from fibo_client.celery.result import AsyncResult
from fibo_client.celery.signature import Flow, SendOptions, Signature
from fibo_client.celery.stats import ClientStats, RevocationCounts

__all__ = [
    "UNSET",
    "AsyncResult",
    "Cause",
    "CeleryClient",
    "CeleryConfig",
    "Chain",
    "ChainResult",
    "Chord",
    "ChordResult",
    "ClientStats",
    "Diagnosis",
    "Flow",
    "FlowResult",
    "Group",
    "GroupResult",
    "Inspect",
    "JSONType",
    "OwnedFlow",
    "OwnedResult",
    "RedisOptions",
    "RemoteTask",
    "RevocationCounts",
    "SendOptions",
    "Signature",
    "TaskFailure",
    "TaskMeta",
    "WorkerInfo",
    "chain",
    "chord",
    "group",
    "remote_task",
]
