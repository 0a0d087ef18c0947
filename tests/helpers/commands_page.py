"""docs/reference/commands.md: its tables of options come from the commands themselves.

python -m tests.helpers.commands_page    # writes them anew
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer.main

from defocus.__main__ import COMMANDS
from defocus.engine.cli.options import Option

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "commands.md"
_TABLE = r"(^## {command}\n.*?)(^\| {head} .*?\n)(?=\n|\Z)"
NO_SCRIPT = {  # only sub-commands
    "defocus report": "defocus.engine.cli.report",
    "defocus install-shortcut": "defocus.watcher.desktop.cli",
}


def modules() -> dict[str, str]:
    """Command to module, as pyproject.toml declares them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        name: target.removesuffix(":main") for name, target in project["scripts"].items() if name.startswith("defocus-")
    }


def parameters(module: str) -> Iterator[Any]:
    """Every option of a command's parser, those of its sub-commands too, but --version."""
    top = typer.main.get_command(importlib.import_module(module).app)
    for one in (top, *getattr(top, "commands", {}).values()):
        yield from (one for one in one.params if one.param_type_name == "option" and one.name != "version")


def table(module: str) -> str:
    """The options of one command as a Markdown table: the same text as --help."""
    rows = ["| option | default | what |", "|---|---|---|"]
    for option in parameters(module):
        names = [f"`{name}`" for name in (*option.opts, *option.secondary_opts)]
        if value := _value(option):
            names[-1] = f"{names[-1][:-1]} {value}`".replace("|", r"\|")
        text = re.sub(r"(?<![\w`-])(--[a-z][a-z0-9-]*)", r"`\1`", option.help or "").replace("|", r"\|")
        text = re.sub(r"\(([^()]*\*[^()]*)\)", r"(`\1`)", text)
        rows.append(f"| {', '.join(names)} | {_default(option)} | {text}{_bounds(option)} |")
    return "\n".join(rows) + "\n"


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    if option.metavar:
        return option.metavar
    kind = option.type_descriptor.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(one.value for one in kind)
    return {int: "N", float: "N", Path: "PATH"}.get(kind, "TEXT")


def _default(option: Any) -> str:
    if isinstance(option.show_default, str):
        return option.show_default
    default = getattr(option.default, "value", option.default)
    if default is None or isinstance(default, bool | list | tuple) or default == "":
        return "on" if default is True else ""
    return f"{default:g}" if isinstance(default, float) else str(default)


def _bounds(option: Any) -> str:
    declared = getattr(getattr(option.callback, "__wrapped__", None), "__self__", None)
    bounds = declared.bounds if isinstance(declared, Option) else ""
    return f" ({bounds})" if bounds else ""


def commands() -> str:
    """The sub-commands of `defocus` as a Markdown table."""
    rows = ["| command | the same as | what |", "|---|---|---|"]
    for name, (_, text) in COMMANDS.items():
        same = f"`defocus-{name}`" if f"defocus-{name}" in modules() else ""
        rows.append(f"| `defocus {name}` | {same} | {text} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The page with every table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {command: ("option", table(module)) for command, module in (modules() | NO_SCRIPT).items()}
    for command, (head, new) in {"defocus": ("command", commands()), **tables}.items():
        pattern = _TABLE.format(command=re.escape(command), head=head)
        text, count = re.subn(pattern, lambda found, new=new: found[1] + new, text, count=1, flags=re.M | re.S)
        assert count, f"{PAGE} has no section '## {command}' with a table"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
