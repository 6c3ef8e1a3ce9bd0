"""What docs/how-to/command-line.md shows is run by a shell, and prints what stands there."""

import os
import re
import sys
from pathlib import Path

import pytest
from support.programs import run

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "command-line.md"


def blocks():
    text = PAGE.read_text()
    for block in re.finditer(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield pytest.param(block[1], id=f"line {text.count(chr(10), 0, block.start()) + 2}")


@pytest.mark.parametrize("block", list(blocks()))
def test_a_command_on_the_page_prints_what_the_page_says(block, worker, tmp_path):
    shown = [(command, output) for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)]
    mark = "-- the end of one of them --"
    # The errors after the answers, as they stand on the page. The shell is the same for all: it has variables.
    script = "".join(f"{{ {command}\n}} 2> .errors\ncat .errors\necho '{mark}'\n" for command, _ in shown)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = run("bash", "-c", script, cwd=tmp_path, CELERY_BROKER_URL=worker.admin_url, PATH=path)
    printed = done.stdout.split(f"{mark}\n")[:-1]
    assert dict(zip([command for command, _ in shown], printed, strict=True)) == dict(shown)
    assert done.stderr == ""
