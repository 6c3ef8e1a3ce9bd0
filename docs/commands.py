"""Writes the reference of a command line from the commands themselves.

sphinx-click knows the commands of click alone, and typer has brought a click of its own since 0.26. What is asked of a
command here, both answer.
"""

import inspect
import re


def commands_as_markdown(command, name):
    """Write a section for a command and each of its own."""
    # Both have a class of their own for it, and neither says where it is.
    context = command.make_context(name, ["--help"], resilient_parsing=True)
    context.info_name = name
    return "\n".join(_sections(command, context, level=2))


def _sections(command, context, level):
    yield f"{'#' * level} {context.command_path}\n"
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    yield f"{_prose(command.help)}\n"
    for kind in ("argument", "option"):
        parameters = [each for each in command.get_params(context) if each.param_type_name == kind]
        records = [record for each in parameters if (record := each.get_help_record(context)) is not None]
        rows = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in records if text and name != "-h, --help"]
        if rows:
            yield "\n".join([f"| {kind} | meaning |", "|---|---|", *rows, ""])
    if command.epilog:
        yield f"{_prose(command.epilog)}\n"
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        each = command.get_command(context, name)
        deeper = type(context)(each, parent=context, info_name=name)
        yield from _sections(each, deeper, level + 1)


def _prose(text):
    """Put into a code block what click must not rewrap."""
    paragraphs = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines = paragraph.splitlines()
        if lines[0].strip() == "\b":
            title, *lines = lines[1:]
            body = "\n".join(line.removeprefix("  ") for line in lines)
            paragraphs.append(f"{title.strip()}\n\n```text\n{body}\n```")
        else:
            # Options are code, as is what is quoted.
            paragraphs.append(re.sub(r"'([^' ][^']*)'|(?<![\w-])(--[a-z-]+)", r"`\1\2`", paragraph))
    return "\n\n".join(paragraphs)


def _cell(text):
    return " ".join(text.replace("|", "\\|").split())
