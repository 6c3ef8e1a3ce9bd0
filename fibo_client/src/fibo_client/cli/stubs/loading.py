"""Imports a Celery app by the name that the user gives. Celery itself is never imported by name."""

from __future__ import annotations

import contextlib
import importlib
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
    """Import an app with all its tasks, as ``celery -A`` does. What it prints goes to the error output.

    Args:
        name: ``module:attribute``. Without an attribute it is ``app``, ``celery`` or any other app of the module, or
            that of its submodule ``celery``, as with Celery.

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
    with contextlib.redirect_stdout(sys.stderr):
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
        try:
            found = reduce(getattr, attribute.split("."), module)
        except AttributeError:
            apps = ", ".join(f"{module.__name__}:{name}" for name, each in vars(module).items() if _is_app(each))
            hint = f"; it has {apps}" if apps else ""
            raise AppError(f"the module {module.__name__} has no {short_repr(attribute)}{hint}") from None
        if not _is_app(found):
            raise AppError(f"{module.__name__}:{attribute} is no Celery app: its type is {type(found).__name__}")
        return f"{module.__name__}:{attribute}", found
    for name in ("app", "celery", *vars(module)):
        if _is_app(getattr(module, name, None)):
            return f"{module.__name__}:{name}", getattr(module, name)
    if hasattr(module, "__path__"):
        with contextlib.suppress(ModuleNotFoundError):
            return _find(importlib.import_module(f"{module.__name__}.celery"), "")
    raise AppError(f"the module {module.__name__} has no Celery app; write which one: {module.__name__}:ATTRIBUTE")


def _is_app(value: object) -> bool:
    """Tell an app by what is asked of it. A module and a mock have all sorts of attributes."""
    return all(hasattr(type(value), name) for name in ("amqp", "conf", "finalize", "loader", "tasks"))


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
