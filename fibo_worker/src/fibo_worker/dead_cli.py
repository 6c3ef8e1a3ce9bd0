"""The commands ``fibo-worker dead list | show | requeue | purge``."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fibo_worker.guard.dead_letters import DeadLetter, DeadLetters

__all__ = ["dead"]

_BATCH = 100

_queue: Callable[[Callable[..., None]], Callable[..., None]] = click.option(
    "-Q", "--queue", metavar="NAME", default="celery", show_default=True, help="The queue whose dead letters they are."
)


@click.group()
def dead() -> None:
    """Inspect and requeue messages that workers could not run.

    \b
    Examples:
      fibo-worker dead list --queue celery
      fibo-worker dead show 0
      fibo-worker dead requeue 0 1

    Workers keep them in the Redis list QUEUE.dead, each with the reason.
    """


@dead.command("list")
@_queue
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=20,
    show_default=True,
    help="How many, the newest first.",
)
def list_(queue: str, number: int) -> None:
    """List dead letters: index, time, reason, task and id."""
    with _opened(queue) as dead_letters:
        stored, kept, total = dead_letters.stored(0, number - 1), dead_letters.kept(), dead_letters.total()
    for index, each in enumerate(stored):
        dead_letter = _read(each)
        if dead_letter is None:
            click.echo(f"{index}  not a dead letter")
        else:
            name = f"{_safe(dead_letter.task or '-')} {_safe(dead_letter.id or '-')}"
            cut = f"  (cut: {len(dead_letter.raw)} of {dead_letter.size} bytes)" if dead_letter.is_cut else ""
            click.echo(f"{index}  {_safe(dead_letter.at)}  {name}  {_safe(dead_letter.reason)}{cut}")
    click.echo(f"{len(stored)} of {kept} dead letters of the queue {_safe(queue)}; {total} came since counting began.")


@dead.command()
@_queue
@click.argument("index", type=click.IntRange(min=0))
def show(queue: str, index: int) -> None:
    """Show one dead letter in full. INDEX is the one that 'list' prints.

    Bytes of the message that are not printable ASCII are escaped as in a Python bytes literal.
    """
    with _opened(queue) as dead_letters:
        stored = dead_letters.stored(index, index)
    if not stored:
        raise click.ClickException(f"the queue {_safe(queue)} has no dead letter {index}")
    dead_letter = _read(stored[0])
    if dead_letter is None:
        raise click.ClickException(f"the element at {index} is not a dead letter: {stored[0]!r:.200}")
    for name in ("reason", "at", "queue", "task", "id"):
        click.echo(f"{name + ':':8}{_safe(getattr(dead_letter, name) or '-')}")
    if dead_letter.is_cut:
        click.echo(
            f"cut:    of the message's {dead_letter.size} bytes, only the first {len(dead_letter.raw)} were kept"
        )
        click.echo(f"sha256: {_safe(dead_letter.sha256 or '-')}")
    click.echo(f"raw:    {repr(dead_letter.raw)[2:-1]}")


@dead.command()
@_queue
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.argument("indexes", type=click.IntRange(min=0), nargs=-1)
def requeue(queue: str, every: bool, yes: bool, indexes: tuple[int, ...]) -> None:
    """Put messages back into their queue, unchanged. INDEXES are those that 'list' prints.

    They go to the end of the queue. A message that still cannot be run becomes a dead letter again. One that was too
    large to be kept whole cannot be put back.
    """
    if every == bool(indexes):
        raise click.UsageError("name the indexes of the dead letters to put back, or say --all")
    with _opened(queue) as dead_letters:
        if every:
            stored = dead_letters.stored()
        else:
            # New dead letters shift the indexes, so read these once, and then go by the content.
            stored = [each for index in sorted(set(indexes)) for each in dead_letters.stored(index, index)]
            if len(stored) < len(set(indexes)):
                raise click.ClickException(f"the queue {_safe(queue)} does not have all of these dead letters")
        sound, cut = [], 0
        for each in stored:
            dead_letter = _read(each)
            if dead_letter is None:
                continue
            if not dead_letter.is_cut:
                sound.append(each)
            elif every:
                cut += 1
            else:
                name = f"{_safe(dead_letter.task or '-')} {_safe(dead_letter.id or '-')}"
                raise click.ClickException(
                    f"the message of {name} cannot be put back: of its {dead_letter.size} bytes, "
                    f"only the first {len(dead_letter.raw)} were kept"
                )
        for each in sound[:20]:
            dead_letter = _read(each)
            if dead_letter is not None:
                click.echo(
                    f"{_safe(dead_letter.task or '-')} {_safe(dead_letter.id or '-')}  {_safe(dead_letter.reason)}"
                )
        if len(sound) > 20:
            click.echo(f"and {len(sound) - 20} more")
        if sound and not yes:
            click.confirm(f"Put {len(sound)} messages back into the queue {_safe(queue)}?", abort=True)
        # The oldest first, so that they run in the order in which they came.
        sound.reverse()
        moved = sum(dead_letters.requeue(sound[start : start + _BATCH]) for start in range(0, len(sound), _BATCH))
    click.echo(f"{moved} put back." + (f" {cut} stay: they were cut." if cut else ""))


@dead.command()
@_queue
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def purge(queue: str, yes: bool) -> None:
    """Remove all dead letters of a queue, for good."""
    with _opened(queue) as dead_letters:
        if not yes:
            click.confirm(f"Remove {dead_letters.kept()} dead letters of the queue {_safe(queue)}?", abort=True)
        click.echo(f"{dead_letters.purge()} removed.")


@contextlib.contextmanager
def _opened(queue: str) -> Iterator[DeadLetters]:
    """Connect as the worker does, so that it takes the same URLs."""
    from kombu.exceptions import OperationalError
    from redis import Redis, RedisError, ResponseError

    from fibo_client.errors import ConfigError
    from fibo_worker.guard.dead_letters import DeadLetters
    from fibo_worker.settings import WorkerSettings

    try:
        settings = WorkerSettings.from_env(os.environ)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error

    from fibo_worker.app import create_app  # its module reads the variables, too, so check them first
    from fibo_worker.health import HINT, masked_url

    app = create_app(settings)
    app.conf.broker_transport_options |= {"socket_connect_timeout": 5.0, "socket_timeout": 30.0}
    with app.connection_for_read() as connection:
        url = masked_url(connection, settings)
        try:
            connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=5.0)
            channel = connection.default_channel
            client = Redis(connection_pool=channel.pool)
            yield DeadLetters(client, queue, prefix=channel.global_keyprefix, limit=settings.dead_letter_limit)
        except ResponseError as error:
            raise click.ClickException(f"the broker {url} refused: {_safe(str(error))}") from error
        except (OperationalError, RedisError, OSError) as error:
            raise click.ClickException(f"the broker {url} cannot be reached: {_safe(str(error))} {HINT}") from error


def _read(stored: bytes) -> DeadLetter | None:
    from fibo_worker.guard.dead_letters import DeadLetter

    try:
        return DeadLetter.decode(stored)
    except ValueError:
        return None


def _safe(text: str) -> str:
    """Escape and shorten a text from the wire, so that it cannot control the terminal."""
    from fibo_client.text import printable

    return printable(text.encode("unicode_escape").decode("ascii"))
