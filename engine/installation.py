"""How this copy of defocus was installed: the command that adds a part to it, and packages that are too old for it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

_METADATA = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(-py[\d.]+)?\.(dist|egg)-info")
_LEAST = re.compile(r"Requires-Dist: (?P<name>[\w.-]+) *\(?>= *(?P<version>[\d.]+)\)?$", re.M)  # no marker, no extra


def install_command(*extras: str, options: str = "") -> str:
    """The command that installs defocus with `extras` from where this copy came from: a clone, a wheel or an index."""
    part = f"[{','.join(extras)}]" if extras else ""
    return f"pip install {options}{' ' if options else ''}{_source(part)}"


def is_installed(package: str) -> bool:
    """Whether there is such a package to import; nothing is imported but what it lies in."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # what it lies in is missing; some loader left a module without a spec
        return False


def _source(part: str) -> str:
    from importlib.metadata import PackageNotFoundError, distribution  # 40 ms, and only a remedy needs it

    try:
        came_from = json.loads(distribution("defocus").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):  # run from a clone, without an installation
        came_from = {"url": Path(__file__).parents[1].as_uri(), "dir_info": {}}
    url = came_from.get("url", "")
    if "vcs_info" in came_from:
        vcs = came_from["vcs_info"]
        revision = f"@{vcs['requested_revision']}" if "requested_revision" in vcs else ""
        return f'"defocus{part} @ {vcs["vcs"]}+{url}{revision}"'
    if not url.startswith("file:"):
        return f'"defocus{part} @ {url}"' if url else f'"defocus{part}"'
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    path = Path(url2pathname(urlsplit(url).path))
    if not (path.is_file() or (path / "pyproject.toml").is_file()):  # the wheel or clone has been deleted since
        return f'".{part}" in a clone of the repository'
    editable = "--editable " if came_from.get("dir_info", {}).get("editable") else ""
    return f'{editable}"{path}{part}"'


def outdated(path: Iterable[str] | None = None) -> dict[str, tuple[str, str]]:
    """Packages that defocus cannot do without and that are too old for it: name to what is installed and the minimum.

    The versions are taken from the names of the metadata's folders, in about a millisecond: importlib.metadata would
    add 45 to the start of every command. What has no metadata is taken for new enough.

    Parameters
    ----------
    path : iterable of str, optional
        Folders to look in, the first of a name counts; `sys.path` by default.
    """
    installed: dict[str, tuple[str, str]] = {}
    for folder in sys.path if path is None else path:
        try:
            entries = os.listdir(folder or ".")
        except OSError:  # an archive, or not there
            continue
        for entry in entries:
            if entry.endswith("-info") and (match := _METADATA.fullmatch(entry)):
                installed.setdefault(_normal(match["name"]), (match["version"], os.path.join(folder, entry)))
    try:
        metadata = Path(installed["defocus"][1], "METADATA").read_text(encoding="utf-8")
    except (KeyError, OSError):  # run from a clone, without an installation
        return {}
    least = {match["name"]: match["version"] for match in _LEAST.finditer(metadata)}
    return {
        name: (installed[_normal(name)][0], needed)
        for name, needed in least.items()
        if _normal(name) in installed and _release(installed[_normal(name)][0]) < _release(needed)
    }


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _release(version: str) -> list[int]:
    """The numbers of a version as PEP 440 compares them: 1.0 is 1, and 2.0rc1 is taken for 2.0."""
    numbers = re.match(r"(?:\d+!)?(\d+(?:\.\d+)*)", version)
    parts = [int(part) for part in numbers[1].split(".")] if numbers else [sys.maxsize]
    while parts and parts[-1] == 0:
        parts.pop()
    return parts
