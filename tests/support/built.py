"""What `make build` builds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import fibo_client
import fibo_worker
from support.environments import find_uv
from support.pages import ROOT
from support.programs import run

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = {"fibo_client": fibo_client.__version__, "fibo_worker": fibo_worker.__version__}


def uv(*arguments: object) -> str:
    """Run uv. Another environment that happens to be active is not meant."""
    done = run(find_uv(), "--no-progress", *arguments, cwd=ROOT, VIRTUAL_ENV="")
    assert done.returncode == 0, done.stderr
    return done.stdout


def wheel(built: Path, name: str) -> Path:
    return built / f"{name}-{VERSIONS[name]}-py3-none-any.whl"


def sdist(built: Path, name: str) -> Path:
    return built / f"{name}-{VERSIONS[name]}.tar.gz"
