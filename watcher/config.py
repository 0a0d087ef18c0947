"""All settings of the daemon in one place: the flags of `defocus-watch`, and the keys of `defocus.toml`."""

from __future__ import annotations

import codecs
import difflib
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..engine.errors import InputError
from ..engine.pipeline.channel_pattern import Pattern
from ..engine.pipeline.steps import MEMORY
from ..engine.quality.report import Doubtful
from .discovery.scanner import ScanTiming
from .queue import Order
from .settings import DaemonSettings, FolderSettings, default_out

_REMEDY = "see defocus-watch --print-config for one that works"
_BACKSLASH = "write paths with / or in single quotes: in double quotes a backslash is not taken as it is"
_MOST = {"na": 2.0, "pixel_size_um": 1000.0}


@dataclass(frozen=True)
class Folder:
    """An acquisition folder and where its corrected files go ("": ACQ_corrected beside it).

    `name` is what the status page calls it ("": the folder's own). `na` and `pixel_size_um` are those of its microscope
    (0: as its files say), by which blur becomes a distance from focus.
    """

    acquisition: str
    output: str = ""
    name: str = ""
    na: float = 0.0
    pixel_size_um: float = 0.0


@dataclass(frozen=True)
class Config:
    """Every setting, with its default. Times in s unless the name says otherwise, memory in GB; see `--help`."""

    folders: tuple[Folder, ...] = ()
    model: str = "default"
    backend: str = "auto"
    settle: float = 2.0
    rescan: float = 5.0
    patience: float = 30.0
    polling: bool = False
    retries: int = 3
    all_planes: bool = False
    only_defocused: bool = True
    keep_doubtful: str = "corrected"
    order: str = "oldest"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_age: float = 0.0
    min_free_mb: float = 200.0
    keep_days: float = 0.0
    memory: float = MEMORY / 1e9
    log_json: bool = False
    status: str = ""
    status_token: str = ""
    notify_command: str = ""
    notify_url: str = ""
    drift_px: float = 0.0
    channels: str = ""
    partner_wait: float = 60.0

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a TOML file, in UTF-8 or, as PowerShell's `>` writes it, in UTF-16.

        Raises
        ------
        InputError
            Missing, no TOML, an unknown key (the nearest known one is named), a value of another kind or out of range.
        """
        try:
            content = Path(path).read_bytes()
            wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            text = content.decode("utf-16" if wide else "utf-8-sig")
            values = tomllib.loads(text)
        except OSError as error:
            raise InputError(path, f"cannot be read ({error.strerror})", "check the path") from error
        except UnicodeDecodeError as error:
            raise InputError(path, "is not written in UTF-8", "save it as UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(path, f"is no TOML ({error})", _remedy(text, str(error))) from error
        known = {one.name: one.default for one in fields(cls)}
        _check_names(values, known, path, "")
        found: dict[str, Any] = {}
        for name, value in values.items():
            found[name] = _folders(value, path) if name == "folders" else _value(name, value, known[name], path)
        return cls(**found).checked(path)

    def checked(self, thing: object = "command line") -> Config:
        """The same, if its values make sense; raises InputError."""
        if self.order not in {order.value for order in Order}:
            raise InputError(thing, f'order is "{self.order}"', 'write order = "oldest" or "newest"')
        if self.keep_doubtful not in {one.value for one in Doubtful}:
            cause = f'keep_doubtful is "{self.keep_doubtful}"'
            raise InputError(thing, cause, 'write keep_doubtful = "original" or "corrected"')
        for name in ("settle", "patience", "max_age", "min_free_mb", "keep_days", "memory", "drift_px", "partner_wait"):
            if getattr(self, name) < 0:
                raise InputError(thing, f"{name} is {getattr(self, name):g}", "use 0 or more")
        if self.rescan < 0.05:
            raise InputError(thing, f"rescan is {self.rescan:g}", "use 0.05 or more")
        if self.retries < 1:
            raise InputError(thing, f"retries is {self.retries}", "use 1 or more")
        if self.channels:
            try:
                Pattern.parse(self.channels)
            except InputError as error:
                raise InputError(thing, f'channels is "{self.channels}": {error.cause}', error.remedy) from error
        return self

    def given(self, **changes: Any) -> Config:
        """The same with the `changes` that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def daemon_settings(self, once: bool = False) -> DaemonSettings:
        """What `watch` takes. Raises InputError if there is no folder."""
        return DaemonSettings(tuple(self.settings()), once, round(self.memory * 1e9))

    def settings(self) -> list[FolderSettings]:
        """The settings of each folder. Raises InputError if there is none."""
        if not self.folders:
            raise InputError("command line", "no folder to watch", "give ACQ, or [[folders]] in the file of --config")
        timing = ScanTiming(self.settle, self.rescan, self.patience, self.polling)
        return [
            FolderSettings(
                acquisition=Path(folder.acquisition),
                out=Path(folder.output) if folder.output else default_out(Path(folder.acquisition)),
                timing=timing,
                retries=self.retries,
                keep_sharp=not self.all_planes,
                order=Order(self.order),
                include=self.include,
                exclude=self.exclude,
                max_age=self.max_age,
                min_free_mb=self.min_free_mb,
                keep_days=self.keep_days,
                channels=Pattern.parse(self.channels) if self.channels else None,
                partner_wait=self.partner_wait,
                keep_doubtful=self.keep_doubtful == Doubtful.ORIGINAL,
            )
            for folder in self.folders
        ]

    def to_toml(self) -> str:
        """The settings as a file that `load` reads; of a token it says only that there is one."""
        lines = ["# Settings of defocus-watch: defocus-watch --config defocus.toml", ""]
        for one in fields(self):
            if one.name == "status_token" and self.status_token:
                lines.append("# status_token = '...'  # it is set, and a secret: write it here yourself")
            elif one.name != "folders":
                lines.append(f"{one.name} = {_toml(getattr(self, one.name))}")
        for folder in self.folders or (Folder("ACQ"),):
            mark = "" if self.folders else "# "
            lines += ["", f"{mark}[[folders]]", f"{mark}acquisition = {_toml(folder.acquisition)}"]
            lines.append(f"{mark}output = {_toml(folder.output)}  # empty: ACQ_corrected beside it")
            lines.append(f"{mark}name = {_toml(folder.name)}  # on the status page; empty: the folder's own")
            lines.append(f"{mark}na = {_toml(folder.na)}  # numerical aperture; 0: as the files say")
            lines.append(f"{mark}pixel_size_um = {_toml(folder.pixel_size_um)}  # in the specimen; 0: as the files say")
        return "\n".join(lines) + "\n"


def _folders(value: Any, path: Path) -> tuple[Folder, ...]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InputError(path, "folders is no list of tables", "write [[folders]] and acquisition = '...' below it")
    found = []
    for one in value:
        _check_names(one, [part.name for part in fields(Folder)], path, "folders.")
        if not isinstance(one.get("acquisition"), str):
            raise InputError(path, "a folder without its acquisition path", "write acquisition = '/path/to/folder'")
        example = Folder("ACQ")
        values = {name: _value(f"folders.{name}", value, getattr(example, name), path) for name, value in one.items()}
        for name in ("na", "pixel_size_um"):
            if not 0 <= values.get(name, 0.0) < _MOST[name]:
                raise InputError(path, f"folders.{name} is {values[name]:g}", f"use 0 to {_MOST[name]:g}")
        found.append(Folder(**values))
    return tuple(found)


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


def _value(name: str, value: Any, example: Any, path: Path) -> Any:
    """A value of the kind of its default; whole numbers pass for others."""
    if isinstance(example, tuple) and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if isinstance(example, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(example):
        raise InputError(path, f"{name} is {value!r}", f"write something like {name} = {_toml(example)}")
    if isinstance(value, str):
        _check_text(value, name, path)
    return value


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)
