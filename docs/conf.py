"""How Sphinx builds the documentation: ``make docs``. Nothing is fetched from the network."""

import re
import sys
from pathlib import Path

import typer

from fibo_client import __version__
from fibo_client.cli.app import app as fibo
from fibo_worker.cli import main as fibo_worker

sys.path.insert(0, str(Path(__file__).parent))
from commands import commands_as_markdown

project = "fibo"
author = "The fibo authors"
copyright = f"2026, {author}"  # noqa: A001 - the name that Sphinx gives it
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["examples"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# What is shown is what is typed: --range stays two hyphens, and 'x' a word that a shell can read.
smartquotes = False

# In the docstrings `name` is a name of this project, where it is one.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 100

nitpicky = True
nitpick_ignore_regex = [
    # Python's own names: to link them would take its inventory, from the network.
    (r"py:.*", r"(asyncio|builtins|collections\.abc|datetime|enum|pathlib|ssl|typing)\.~?\w+"),
    (r"py:.*", r"(datetime|Callable|Mapping(\[str)?|ModuleType|Path|Sequence)"),
    # Type variables, and types that are named in a signature but are nobody's to import.
    (r"py:.*", r"(fibo_client\.\w+(\.\w+)*\.)?(C|H|P|R|R_co|S|T|T_co|Ts|V)"),
    (r"py:.*", r"(fibo_client\.\w+(\.\w+)*\.)?(ConfigOverrides|Job|Session|FiboOverrides|Replies|Unset)"),
    (r"py:.*", r"(fibo_client\.\w+(\.\w+)*\.)?(_Batcher|_SendSpan|Backend|Broker|Memory\w+|Transport|Worker)"),
    (r"py:.*", r"(fibo_client\.\w+(\.\w+)*\.)?(OwnedTask|Parts|Sendable|Startable|TaskRoutes|UnsupportedBackend)"),
    (r"py:.*", r"(fibo_client\.\w+(\.\w+)*\.)?(Composed|Requests)(\.\w+)?"),
    # OpenTelemetry's, likewise in the network.
    (r"py:class", r"TracerProvider|MeterProvider|Context"),
    # Celery's and redis-py's, likewise.
    (r"py:(class|exc)", r"Redis|redis\.RedisError"),
    (r"py:class", r"(celery\.app\.base\.)?Celery"),
    (r"py:exc", r"(celery\.exceptions\.)?(ImproperlyConfigured|Retry)"),
    # In a docstring a lower-case `name` may also be a parameter.
    (r"py:obj", r"[a-z_]+"),
    (r"py:obj", r"async with"),
]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"fibo {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["fibo.css"]
html_favicon = "_static/favicon.svg"
html_logo = "_static/favicon.svg"
html_theme_options = {
    "sidebar_hide_name": False,
    "light_css_variables": {"color-brand-primary": "#0b6b50", "color-brand-content": "#0b6b50"},
    "dark_css_variables": {"color-brand-primary": "#5fd0a8", "color-brand-content": "#5fd0a8"},
}

# What is copied is what is typed: no prompts, and not what a command answers.
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_line_continuation_character = "\\"

COMMANDS = {"fibo": typer.main.get_command(fibo), "fibo-worker": fibo_worker}

fields = {}


def write_commands(_app, _page, source):
    """Put the reference of a command line where a page asks for it."""
    source[0] = re.sub(
        "^<!-- the commands of (.+) -->$",
        lambda found: commands_as_markdown(COMMANDS[found[1]], found[1]),
        source[0],
        flags=re.MULTILINE,
    )


def before_napoleon(_app, what, name, _obj, _options, lines):
    """Put the docstrings of fields aside: napoleon would take what is before a colon in one for the field's type."""
    if what in ("attribute", "data", "property"):
        fields[name] = list(lines)


def after_napoleon(_app, _what, name, _obj, _options, lines):
    if name in fields:
        lines[:] = fields.pop(name)


# What furo's pages lack for readers who use a keyboard or a screen reader, dashes, and a line that tells nobody much.
OBJECT = '<code class="xref py py-class docutils literal notranslate"><span class="pre">object</span></code>'
IMPROVED = (
    (f"<p>Bases: {OBJECT}</p>\n", ""),
    ("</strong> -- ", "</strong> &ndash; "),
    ("</strong></a> -- ", "</strong></a> &ndash; "),
    ('<span class="pre">--', '<span class="pre option">--'),
    ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),
    ('<aside class="toc-drawer">', '<aside class="toc-drawer" aria-label="On this page">'),
    ('<div class="highlight"><pre>', '<div class="highlight"><pre tabindex="0">'),
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
)
# A list of definitions without anything that is defined: a signature with one parameter a line.
PARAMETERS = re.compile(r"<dl>\n(<dd>.*?)</dl>", re.DOTALL)


def list_parameters(found):
    return f'<ul class="parameters">\n{found[1].replace("dd>", "li>")}</ul>'


def improve_pages(app, exception):
    if exception is None and app.builder.format == "html":
        site = Path(app.outdir)
        for page in {*site.rglob("*.html")} - {*site.glob("_downloads/**/*.html")}:
            text = page.read_text()
            for lacking, better in IMPROVED:
                text = text.replace(lacking, better)
            page.write_text(PARAMETERS.sub(list_parameters, text))


def find_by_last_name(app, env, node, shown):
    """Link a class that stands in a signature or a docstring without its module."""
    last = node["reftarget"].rpartition(".")[2]
    if node.get("refdomain") != "py" or not last[:1].isupper():
        return None
    python = env.domains["py"]
    known = ((name, entry) for name, entry in python.objects.items() if not entry.aliased)
    places = [name for name, _ in known if name.rpartition(".")[2] == last]
    if len(places) != 1:
        return None
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", places[0], node, shown)


def setup(app):
    app.connect("missing-reference", find_by_last_name)
    app.connect("build-finished", improve_pages)
    app.connect("source-read", write_commands)
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
