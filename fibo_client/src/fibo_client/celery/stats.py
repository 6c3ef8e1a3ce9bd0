"""What a client has done so far, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class RevocationCounts:
    """What became of the revocations of tasks that nobody awaits any more. A closed client has counted all of them.

    Attributes:
        delivered: Tasks whose revocation at least one worker received, or may have, where the broker does not count
            workers. One may have begun the task before.
        undelivered: Tasks whose revocation no worker received, because none listened.
        unsent: Tasks whose revocation could not be sent.
        reason: Why the last of these was not sent. None if there was no time for it.
    """

    delivered: int = 0
    undelivered: int = 0
    unsent: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats:
    """Numbers of one client: the first three are of the moment, the others count from its beginning.

    Attributes:
        pending: Results that are waited for. Several who wait for the same one count once.
        in_flight: Tasks of calls under way that were sent, or may have been, and have no answer yet. Tasks that were
            handed out (`send_task`, `send_many`) are not among them.
        unsent: Messages that still have to be sent, or whose sending has had no answer yet.
        published: Messages that the broker has taken.
        answers: Final results that came for those who waited, broken ones included.
        pushes: Results and states that were pushed.
        polls: Commands that read results, each up to some hundred of them.
        reconnects: Connections that were made in place of broken ones.
        retries: Sendings and readings that were tried again after a failure.
        decode_failures: Results that could not be read because they were none.
        revocations: What became of the tasks that the client revoked by itself: those of calls that were cancelled or
            ended early. `CeleryClient.revoke` is not counted.
    """

    pending: int
    in_flight: int
    unsent: int
    published: int
    answers: int
    pushes: int
    polls: int
    reconnects: int
    retries: int
    decode_failures: int
    revocations: RevocationCounts
