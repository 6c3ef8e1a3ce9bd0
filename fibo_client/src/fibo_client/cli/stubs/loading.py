"""Imports a Celery app by the name that the user gives. Celery itself is never imported by name."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fibo_client.text import short_repr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

__all__ = ["AppError", "load_app"]


class AppError(Exception):
    """There is no app by that name, or it cannot be imported."""


def load_app(name: str) -> tuple[str, Any]:
    """Import an app with all its tasks, as ``celery -A`` does.

    Args:
        name: ``module:attribute``. Without an attribute it is ``app``, ``celery``, that of the submodule ``celery``,
            or any other app of the module, in this order, as with Celery.

    Returns:
        Its full name, and the app.

    Raises:
        AppError: There is none.
    """
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module.split(".")):
        raise AppError(f"{short_repr(name)} is no name of an app; write MODULE:ATTRIBUTE, such as shop.tasks:app")
    # A program has its own folder there, and not the one in which it was started.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    app_name, app = _find(_imported(module), attribute)
    with _raising(f"the tasks of {app_name}"):
        app.loader.import_default_modules()
        app.finalize()
    return app_name, app


def _imported(name: str) -> ModuleType:
    with _raising(name):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Else a module is not found that it imports.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise AppError(
                f"there is no module {error.name} here; run this where the app is installed, or in the folder from "
                "which its worker is started"
            ) from None


def _find(module: ModuleType, attribute: str) -> tuple[str, Any]:
    if attribute:
        return f"{module.__name__}:{attribute}", _attribute(module, attribute)
    for name in ("app", "celery"):
        if _is_app(getattr(module, name, None)):
            return f"{module.__name__}:{name}", getattr(module, name)
    if hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.celery"):
        return _find(_imported(f"{module.__name__}.celery"), "")
    for name, each in vars(module).items():
        if _is_app(each):
            return f"{module.__name__}:{name}", each
    raise AppError(f"the module {module.__name__} has no Celery app; write which one: MODULE:ATTRIBUTE")


def _attribute(module: ModuleType, name: str) -> Any:
    try:
        found = reduce(getattr, name.split("."), module)
    except AttributeError:
        apps = ", ".join(f"{module.__name__}:{each}" for each, value in vars(module).items() if _is_app(value))
        hint = f"; it has {apps}" if apps else ""
        raise AppError(f"the module {module.__name__} has no {short_repr(name)}{hint}") from None
    if not _is_app(found):
        raise AppError(f"{module.__name__}:{name} is no Celery app: its type is {type(found).__name__}")
    return found


def _is_app(value: object) -> bool:
    """Tell an app, or Celery's proxy of one, by what is asked of its class. A mock has all sorts of attributes."""
    # A proxy of something else may raise when it is asked for its class.
    kind = value.__class__ if type(value).__module__.startswith("celery.") else type(value)
    return all(hasattr(kind, name) for name in ("amqp", "conf", "finalize", "loader", "tasks"))


@contextlib.contextmanager
def _raising(what: str) -> Iterator[None]:
    """Name what could not be imported, and the last line that was run: of the user's own code, if there is one."""
    try:
        yield
    except AppError:
        raise
    except (Exception, SystemExit) as error:
        # A SyntaxError says itself where it is.
        where = "" if isinstance(error, SyntaxError) else f" ({_place(error)})"
        raise AppError(f"{what} cannot be imported: {type(error).__name__}: {error}{where}") from error


def _place(error: BaseException) -> str:
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<")]
    here, libraries = str(Path.cwd()), "site-packages"
    own = [each for each in frames if each.filename.startswith(here) and libraries not in each.filename]
    last = (own or frames)[-1]
    return f"{last.filename}, line {last.lineno}"
