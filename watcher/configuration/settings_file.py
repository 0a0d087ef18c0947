"""The settings file: TOML with a comment on each key, and what is wrong with one that cannot be used."""

from __future__ import annotations

import codecs
import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from ...engine.cli.options import Option
from ...engine.errors import InputError
from ...engine.files.version import open_regular

_LARGEST = 1 << 20  # bytes
_REMEDY = "see defocus-watch --print-config for one that works"
_BACKSLASH = "write paths with / or in single quotes: in double quotes TOML reads a backslash as an escape"


@dataclass(frozen=True)
class Setting:
    """A setting as `config.Config` declares it."""

    kind: Any
    default: Any
    option: Option


def read(path: Path, settings: Mapping[str, Setting], folder: Mapping[str, Setting]) -> dict[str, Any]:
    """The values of a TOML file, in UTF-8 or, as PowerShell's `>` writes it, in UTF-16; of "folders" a list of dicts.

    Raises
    ------
    InputError
        Missing, no TOML, an unknown key (the nearest known one is named), a value of another kind or out of range.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(path, "is larger than a megabyte", _REMEDY)
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
        values = tomllib.loads(text)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(path, "is not written in UTF-8", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(path, f"is not valid TOML ({error})", _remedy(text, str(error))) from error
    except RecursionError as error:
        raise InputError(path, "is not valid TOML (nested too deeply)", _REMEDY) from error
    _check_names(values, [*settings, "folders"], path, "")
    return {
        name: _folders(value, folder, path) if name == "folders" else _value(name, value, settings[name], path)
        for name, value in values.items()
    }


def text_of(
    values: Mapping[str, Any],
    folders: Sequence[dict[str, Any]],
    settings: Mapping[str, Setting],
    folder: Mapping[str, Setting],
) -> str:
    """Settings as a file that `read` reads, each with its meaning; of a token it says only that there is one."""
    lines = ["# Settings of defocus-watch: defocus-watch --config defocus.toml"]
    for name, setting in settings.items():
        lines += ["", _comment(setting)]
        if name == "status_token" and values[name]:
            lines.append("# status_token = '...'  # it is set, but secret: write it here yourself")
        else:
            lines.append(f"{name} = {_toml(values[name])}")
    example = {"acquisition": "ACQ"} | {
        name: setting.default for name, setting in folder.items() if name != "acquisition"
    }
    for table in folders or [example]:
        mark = "" if folders else "# "
        lines += ["", f"{mark}[[folders]]"]
        lines += [f"{mark}{name} = {_toml(table[name])}  {_comment(setting)}" for name, setting in folder.items()]
    return "\n".join(lines) + "\n"


def _comment(setting: Setting) -> str:
    bounds = setting.option.bounds
    return f"# {setting.option.help}" + (f" ({bounds})" if bounds else "")


def _folders(value: Any, folder: Mapping[str, Setting], path: Path) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
        raise InputError(path, "folders is not a list of tables", "write [[folders]] and acquisition = '...' below it")
    result = []
    for table in value:
        _check_names(table, folder, path, "folders.")
        if not isinstance(table.get("acquisition"), str) or not table["acquisition"]:
            raise InputError(path, "a folder without an acquisition path", "write acquisition = '/path/to/folder'")
        result.append({name: _value(f"folders.{name}", entry, folder[name], path) for name, entry in table.items()})
    return result


def _remedy(text: str, error: str) -> str:
    """What to do about text that is no TOML: most often it is a path of Windows in double quotes."""
    line = re.search(r"at line (\d+)", error)
    wrong = text.splitlines()[int(line[1]) - 1] if line else text
    return _BACKSLASH if re.search(r'"[^"]*\\', wrong) else _REMEDY


def _check_text(text: str, name: str, path: Path) -> None:
    """Refuse control characters: they are the `\\t` of "C:\\temp"."""
    if any(ord(character) < 32 for character in text):
        raise InputError(path, f"{name} is {text!r}, with a control character in it", _BACKSLASH)


def _check_names(values: dict[str, Any], known: Iterable[str], path: Path, prefix: str) -> None:
    known = list(known)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f'did you mean "{prefix}{near[0]}"?' if near else "remove it"
            raise InputError(path, f'unknown key "{prefix}{name}"', hint)


def _value(name: str, value: Any, setting: Setting, path: Path) -> Any:
    """A value of the kind of its default and within its bounds; whole numbers pass for others."""
    example = "" if setting.default is MISSING else setting.default
    if isinstance(example, tuple) and isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    if isinstance(value, int | float) and isinstance(example, int | float) and bool not in (type(value), type(example)):
        if remedy := setting.option.refusal(value):
            raise InputError(path, f"{name} is {str(value)[:30]}", remedy)
        if isinstance(example, float):
            return float(value)
    if type(value) is not type(example):
        raise InputError(path, f"{name} is {value!r}", f"write something like {name} = {_toml(example)}")
    if isinstance(value, str):
        _check_text(value, name, path)
    return value


def _toml(value: Any) -> str:
    """As JSON, whose strings, numbers and arrays are TOML's, too."""
    return json.dumps(value, ensure_ascii=False)
