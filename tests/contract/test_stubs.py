"""``fibo stubs`` over apps of the installed Celery: of the examples, and of folders that a test fills."""

import ast
import re
import sys
import weakref
from pathlib import Path

import pytest
from celery import _state
from support.fibo import fibo
from support.pages import EXAMPLES


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder in which the command is typed. Apps are imported as in a process of their own, and then forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [each for each in sys.modules if is_example(each)]:
        monkeypatch.delitem(sys.modules, name)
    before = set(sys.modules)
    # Each app of a process has the shared tasks of all.
    monkeypatch.setattr(_state, "_apps", weakref.WeakSet())
    own = {each for each in _state._on_app_finalizers if each.__module__ == "celery.app.builtins"}
    monkeypatch.setattr(_state, "_on_app_finalizers", own)
    yield tmp_path
    for name in sys.modules.keys() - before:
        if is_example(name) or str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def is_example(name):
    return name.split(".")[0] in ("loops", "proj", "shop")


def stubs(*arguments, **env):
    return fibo("redis://127.0.0.1:1/0", "stubs", *arguments, **env)


def written(*arguments):
    """The stubs of an app: the text of each by its task's name."""
    done = stubs(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    nodes = [node for node in ast.parse(done.stdout).body if isinstance(node, ast.FunctionDef)]
    return {node.decorator_list[0].args[0].value: ast.unparse(node).splitlines()[:2] for node in nodes}


def project(folder, **modules):
    """Fill a folder with modules. One in a package is called PACKAGE__MODULE."""
    packages = {name.partition("__")[0] for name in modules if "__" in name}
    for name in packages:
        (folder / name).mkdir()
    for name, text in {**dict.fromkeys(packages, ""), **modules}.items():
        path = folder / (f"{name}/__init__" if name in packages else name.replace("__", "/"))
        path.with_suffix(".py").write_text(text)


def failed(*arguments, status=2, **env):
    done = stubs(*arguments, **env)
    assert (done.returncode, done.stdout) == (status, "")
    assert "Traceback" not in done.stderr
    return done.stderr.replace("\n", " ")


APP = "from celery import Celery\napp = Celery('shop', broker='memory://')\n"
TASK = f"{APP}\n@app.task\ndef total(prices: list[int], rebate: int = 5) -> int: ...\n"


# Apps.


def test_the_examples_have_stubs_by_which_their_tasks_can_be_called():
    assert written("loops.tasks:app") == {
        "loops.tasks.sum_of_roots": [
            "@remote_task('loops.tasks.sum_of_roots', queue='loops')",
            "def sum_of_roots(numbers: Any) -> Any:",
        ],
    }


@pytest.mark.parametrize(("app", "file"), [("proj.tasks", "remote.py"), ("shop.orders:app", "shop/remote.py")])
def test_the_stubs_that_a_page_shows_are_those_that_are_written_now(app, file):
    done = stubs(app)
    assert done.stderr == ""
    assert done.stdout == (EXAMPLES / file).read_text()


def test_the_workers_own_tasks_have_stubs():
    assert written("fibo_worker.app:app")["tasks.sqrt_task"] == [
        "@remote_task('tasks.sqrt_task')",
        "def sqrt_task(value: Any) -> float:",
    ]


def test_a_file_is_written_whole_and_again_the_same(folder):
    project(folder, a_shop=TASK)
    done = stubs("a_shop", "-o", "remote.py")
    first = Path("remote.py").read_bytes()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Wrote remote.py: 1 task.\n")
    stubs("a_shop:app", "--out", "remote.py")
    assert Path("remote.py").read_bytes() == first == stubs("a_shop").stdout.encode()
    assert stubs("a_shop", "-o", "remote.py", "--check").returncode == 0


def test_an_app_that_finds_its_tasks_itself_is_asked_for_all_of_them(folder):
    project(
        folder,
        a_site="from a_site.celery import app as celery_app",
        a_site__celery="""
from celery import Celery
app = Celery("a_site", broker="memory://", include=["listed.more"])
app.autodiscover_tasks(["pages", "mails"])
""",
        pages__tasks="from celery import shared_task\n@shared_task(bind=True)\ndef draw(self, n: int): ...",
        mails__tasks="from celery import shared_task\n@shared_task(name='mails.send')\ndef send(to: str): ...",
        listed__more="from celery import shared_task\n@shared_task\ndef rest(): ...",
    )
    found = written("a_site")
    assert {name: definition for name, (_, definition) in found.items()} == {
        "listed.more.rest": "def rest() -> Any:",
        "mails.send": "def send(to: str) -> Any:",
        "pages.tasks.draw": "def draw(n: int) -> Any:",
    }


def test_tasks_that_celery_wraps_keep_their_signatures(folder):
    project(
        folder,
        wrapping="""
from celery import Celery, Task
from pydantic import BaseModel
app = Celery("wrapping", broker="memory://")

class Order(BaseModel):
    item: str

class Base(Task):
    "A base class of many tasks."

class Resize(Base):
    name = "wrapping.resize"
    def run(self, size: int = 5) -> str:
        "Resize it."

app.register_task(Resize())

@app.task(autoretry_for=(OSError,), bind=True)
def retried(self, a: int, *, b: str = "x") -> float: ...

@app.task(pydantic=True)
def charge(order: Order, count: int = 1) -> int: ...

@app.task(base=Base)
def based(a: "int"): ...
""",
    )
    assert {name: definition for name, (_, definition) in written("wrapping").items()} == {
        "wrapping.based": "def based(a: int) -> Any:",
        "wrapping.charge": "def charge(order: Any, count: int=1) -> int:",
        "wrapping.resize": "def resize(size: int=5) -> str:",
        "wrapping.retried": "def retried(a: int, *, b: str='x') -> float:",
    }
    assert '"""Resize it."""' in stubs("wrapping").stdout
    assert "base class" not in stubs("wrapping").stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_stub_names_what_celerys_client_would_send_by_task_route_and_setting(folder):
    project(
        folder,
        routed="""
import re
from celery import Celery
from kombu import Queue
app = Celery("routed", broker="memory://")
app.conf.task_default_queue = "mine"
app.conf.task_default_priority = 7
app.conf.task_time_limit = 60
app.conf.task_queues = [Queue("video", routing_key="media.video"), Queue("mine")]

def by_arguments(name, args, kwargs, options, task=None, **more):
    if name == "routed.by_arguments":
        return {"queue": args[0]}
    if task.slow:
        return {"queue": "slow"}

app.conf.task_routes = (
    by_arguments,
    {
        "routed.m*": {"queue": "media", "priority": 1, "time_limit": 5},
        re.compile("routed.*video"): "video",
        "routed.keyed": {"exchange": "media", "routing_key": "media.video"},
    },
)
def run(): ...

app.Task.slow = False
for name, options in {
    "made": {}, "mine": {"priority": 2, "queue": "own"}, "a_video": {"expires": 9}, "rest": {"time_limit": 8},
    "keyed": {}, "by_arguments": {}, "by_task": {"slow": True},
}.items():
    app.task(run, name=f"routed.{name}", **options)
""",
    )
    done = stubs("routed")
    assert dict(re.findall(r'"routed\.(\w+)"(.*)\)$', done.stdout, re.MULTILINE)) == {
        "a_video": ', queue="video", priority=7, expires=9',
        "by_arguments": ", priority=7",
        "by_task": ', queue="slow", priority=7',
        "keyed": ", priority=7",
        "made": ', queue="media", priority=7, time_limit=5',
        "mine": ', queue="own", priority=2, time_limit=5',
        "rest": ', queue="mine", priority=7',
    }
    assert done.stderr == (
        "routed.by_arguments: its route depends on more than its name (IndexError('tuple index out of range')), "
        "and its stub has only what the task itself says\n"
        "routed.keyed: its route names an exchange or a routing key, but no queue, and neither does its stub\n"
    )


@pytest.mark.parametrize(
    ("text", "name", "full"),
    [
        ("from celery import Celery\napp = Celery()", "a_name", "a_name:app"),
        ("from celery import Celery\nother = Celery()\ncelery = Celery()", "a_name", "a_name:celery"),
        ("from celery import Celery\nmine = Celery()", "a_name", "a_name:mine"),
        ("from celery import Celery\nclass apps: mine = Celery()", "a_name:apps.mine", "a_name:apps.mine"),
    ],
)
def test_an_app_has_the_names_that_celery_knows_it_by(folder, text, name, full):
    task = "\nfrom celery import shared_task\n@shared_task(name='t')\ndef t(): ..."
    project(folder, a_name=text + task)
    assert stubs(name).stdout.startswith(f'"""The Celery tasks of {full}. ')


def test_a_package_with_an_app_in_its_module_celery_is_found_by_its_own_name(folder):
    project(folder, a_pack="other = 5", a_pack__celery=TASK.replace("app = ", "mine = ").replace("@app", "@mine"))
    assert stubs("a_pack").stdout.startswith('"""The Celery tasks of a_pack.celery:mine. ')


def test_a_proxy_of_an_app_is_one(folder):
    project(folder, proxied=f"{TASK}\nfrom celery import current_app as mine\napp.set_current()\nreal, app = app, None")
    assert stubs("proxied:mine").stdout.startswith('"""The Celery tasks of proxied:mine. ')


def test_what_an_app_prints_is_no_part_of_the_stubs(folder):
    project(folder, printing=f"{TASK}\nprint('hello')\n")
    done = stubs("printing")
    assert done.stdout.startswith('"""')
    assert done.stderr == "hello\n"


# Drift.


def test_drift_is_told_of_with_a_status_of_its_own_and_the_file_stays_as_it_is(folder):
    before = TASK.replace("@app.task", "@app.task(name='total', shared=False)")
    after = before.replace("rebate: int = 5", "rebate: float = 2.5").replace("-> int", "-> str")
    project(folder, before=before, after=after)
    stubs("before", "-o", "remote.py")
    text = Path("remote.py").read_text()
    done = stubs("after", "-o", "remote.py", "--check")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "total: the type of rebate is float, and was int",
        "total: the default of rebate is 2.5, and was 5",
        "total: the result is str, and was int",
    ]
    assert done.stderr == "Error: remote.py has drifted from after:app, in 1 task; write it again, without --check\n"
    assert Path("remote.py").read_text() == text


def test_stubs_by_hand_are_compared_and_never_overwritten(folder):
    project(folder, by_hand=TASK)
    text = (
        "from fibo_client.celery import remote_task as remote_task\n@remote_task('by_hand.total')\ndef total(a): ...\n"
    )
    Path("mine.py").write_text(text)
    done = stubs("by_hand", "-o", "mine.py", "--check")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 4)
    assert "mine.py was not written by fibo stubs, and stays as it is" in failed("by_hand", "-o", "mine.py")
    assert Path("mine.py").read_text() == text


# What goes wrong.


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("no_such_module:app", "there is no module no_such_module here; run this where the app is installed"),
        ("a_package.no_such:app", "there is no module a_package.no_such here"),
        ("a_module:ap", "the module a_module has no 'ap'; it has a_module:app, a_module:other"),
        ("a_module:app.x.y", "the module a_module has no 'app.x.y'; it has a_module:app"),
        ("a_module:number", "a_module:number is no Celery app: its type is int"),
        ("a_package", "the module a_package has no Celery app; write which one: MODULE:ATTRIBUTE"),
        ("a_module.app", "there is no module a_module.app here"),
        ("a-module", "'a-module' is no name of an app; write MODULE:ATTRIBUTE, such as shop.tasks:app"),
        ("", "is no name of an app"),
        ("raising", "raising cannot be imported: ZeroDivisionError: division by zero ({folder}/raising.py, line 2)"),
        ("exiting", "exiting cannot be imported: SystemExit: 5 ({folder}/exiting.py, line 2)"),
        ("wrong", "wrong cannot be imported: SyntaxError: '(' was never closed (wrong.py, line 1). --debug shows"),
        ("lacking", "ModuleNotFoundError: No module named 'so' ({folder}/lacking.py, line 1). --debug shows"),
        ("a_package.late", "the tasks of a_package.late:app cannot be imported: ModuleNotFoundError: No module named"),
        ("a_pack", "a_pack.celery cannot be imported: ModuleNotFoundError: No module named 'so'"),
        ("alone", "alone:app has no tasks of its own; does it import the modules of its tasks"),
    ],
)  # fmt: skip
def test_an_app_that_cannot_be_loaded_is_told_of_with_status_2(folder, app, message):
    project(
        folder,
        a_module=f"{APP}other = Celery()\nnumber = 5",
        a_package="",
        a_package__late="from celery import Celery\napp = Celery(include=['nowhere'])",
        a_pack__celery="import so",
        alone=APP,
        raising="\n1 / 0",
        exiting="\nraise SystemExit(5)",
        wrong="(",
        lacking="import so",
    )
    assert message.replace("{folder}", str(folder)) in failed(app)
    Path("remote.py").touch()
    assert message.replace("{folder}", str(folder)) in failed(app, "--out", "remote.py", "--check")


def test_debug_shows_where_an_import_fails(folder):
    project(folder, failing="\n1 / 0")
    done = stubs("failing", "--debug")
    assert f'File "{folder}/failing.py", line 2' in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: failing cannot be imported: ZeroDivisionError")


def test_a_file_that_cannot_be_written_or_read_is_told_of(folder):
    project(folder, a_shop=TASK)
    Path("folder.py").mkdir()
    Path("binary.py").write_bytes(b"\xff")
    Path("broken.py").write_text('"""The Celery tasks of a:app. Written by fibo stubs; do not edit."""\n(')
    assert "the stubs cannot be written: " in failed("a_shop", "-o", "nowhere/remote.py", status=1)
    assert "folder.py cannot be read: Is a directory" in failed("a_shop", "-o", "folder.py")
    assert "binary.py is no text in UTF-8, and stays as it is" in failed("a_shop", "-o", "binary.py")
    assert "broken.py is no Python: '(' was never closed" in failed("a_shop", "-o", "broken.py", "--check")
    assert "there is no new.py to compare; write it first" in failed("a_shop", "-o", "new.py", "--check")
    assert "--check compares a file with the app; say --out FILE" in failed("a_shop", "--check")
    assert stubs("a_shop", "-o", "broken.py").returncode == 0
