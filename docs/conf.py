"""How Sphinx builds the documentation: ``make docs``. Nothing is fetched from the network."""

from fibo_client import __version__

project = "fibo"
author = "The fibo authors"
copyright = f"2026, {author}"  # noqa: A001 - the name that Sphinx gives it
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["examples"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# In the docstrings `name` is a name of this project, where it is one.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"fibo {release}"
html_show_sourcelink = False

fields = {}


def before_napoleon(_app, what, name, _obj, _options, lines):
    """Put the docstrings of fields aside: napoleon would take what is before a colon in one for the field's type."""
    if what in ("attribute", "data", "property"):
        fields[name] = list(lines)


def after_napoleon(_app, _what, name, _obj, _options, lines):
    if name in fields:
        lines[:] = fields.pop(name)


def setup(app):
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
