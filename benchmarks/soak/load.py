"""The load of the soak: writers of many kinds, and what they wrote."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tifffile

from defocus.training.evaluation.heldout import counts_pair
from defocus.training.evaluation.suite import drawn_fields

OLD_S = 10**8  # how far back the times of copied files are set


@dataclass
class Written:
    """A file of the acquisition folder as its writer left it."""

    closed: float  # time of day
    digest: str
    mtime_ns: int
    good: bool
    versions: int = 1  # most that a watcher may have seen whole


@dataclass
class Load:
    """Writes files into a folder at a steady rate, each in a way drawn at random.

    Attributes
    ----------
    files : dict
        By name below the folder, what was written last.
    kinds : Counter
        How many files were written in which way.
    """

    folder: Path
    rate: float
    shape: tuple[int, int]
    seed: int = 0
    files: dict[str, Written] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    bytes: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        planes = []
        for field_, z_um in zip(drawn_fields(1) * 4, (4, 10, 18, 28), strict=True):
            plane = counts_pair(field_, z_um)[0]
            short = [(0, max(0, want - have)) for want, have in zip(self.shape, plane.shape, strict=True)]
            planes.append(np.pad(plane, short, "symmetric")[: self.shape[0], : self.shape[1]])
        self._planes = planes
        self._ways = {
            "at once": (30, self._at_once),
            "renamed into place": (20, self._renamed),
            "slowly, in pieces": (15, self._slowly),
            "a stack of 4, page by page": (8, self._growing),
            "a name written again": (10, self._again),
            "copied with an old time": (10, self._old),
            "bad": (7, self._bad),
        }

    def run(self, until: float, stop: threading.Event) -> None:
        """Write until the monotonic time `until`; returns when every writer has closed its file."""
        started: list[Future[None]] = []
        ways = list(self._ways)
        weights = [self._ways[way][0] for way in ways]
        begun = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            for number in range(1 << 30):
                if stop.wait(max(0.0, begun + number / self.rate - time.monotonic())) or time.monotonic() >= until:
                    break
                way = self._rng.choices(ways, weights)[0]
                started.append(pool.submit(self._ways[way][1], number, way))
        for one in started:
            one.result()

    def _image(self, number: int) -> np.ndarray:
        """No two are alike."""
        plane = np.roll(self._planes[number % len(self._planes)], 7 * number, 1)
        plane[0, :4] = np.frombuffer(number.to_bytes(8, "little"), np.uint16)
        return plane

    def _name(self, number: int, way: str) -> str:
        return f"plate {number // 500}/{number:06d} {way.split(',')[0]}.tif"

    def _content(self, number: int) -> bytes:
        scratch = self.folder.with_name(f"scratch-{number}.tif")
        tifffile.imwrite(scratch, self._image(number), compression="lzw" if number % 2 else None)
        content = scratch.read_bytes()
        scratch.unlink()
        return content

    def _path(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        return path

    def _wrote(self, name: str, way: str, good: bool = True, versions: int = 1) -> None:
        path = self.folder / name
        content, stat = path.read_bytes(), path.stat()
        digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            before = self.files[name].versions if name in self.files else 0
            self.files[name] = Written(time.time(), digest, stat.st_mtime_ns, good, before + versions)
            self.kinds[way] += 1
            self.bytes += len(content)

    def _at_once(self, number: int, way: str) -> None:
        name = self._name(number, way)
        self._path(name).write_bytes(self._content(number))
        self._wrote(name, way)

    def _renamed(self, number: int, way: str) -> None:
        name = self._name(number, way)
        aside = self._path(name).with_suffix(".writing")
        aside.write_bytes(self._content(number))
        aside.replace(self.folder / name)
        self._wrote(name, way)

    def _slowly(self, number: int, way: str) -> None:
        name, content = self._name(number, way), self._content(number)
        with open(self._path(name), "wb", buffering=0) as file:
            for at in range(0, len(content), len(content) // 5 + 1):
                file.write(content[at : at + len(content) // 5 + 1])
                time.sleep(1.0)
        self._wrote(name, way)

    def _growing(self, number: int, way: str) -> None:
        """Each page leaves a whole file: it may be taken four times, and the last counts."""
        name = self._name(number, way)
        for page in range(4):
            tifffile.imwrite(self._path(name), self._image(number + page), append=True, metadata=None)
            time.sleep(1.0)
        self._wrote(name, way, versions=4)

    def _again(self, number: int, way: str) -> None:
        """One of eight names, by turns; not two writers at once."""
        name = f"live {number % 8}.tif"
        with self._lock:
            if name in self._busy:
                return
            self._busy.add(name)
        aside = self.folder.with_name(f"again-{number}.tif")
        aside.write_bytes(self._content(number))
        aside.replace(self.folder / name)
        self._wrote(name, way)
        with self._lock:
            self._busy.remove(name)

    def _old(self, number: int, way: str) -> None:
        name = self._name(number, way)
        aside = self._path(name).with_suffix(".copying")
        aside.write_bytes(self._content(number))
        old = time.time() - OLD_S - number
        os.utime(aside, (old, old))
        aside.replace(self.folder / name)
        self._wrote(name, way)

    def _bad(self, number: int, way: str) -> None:
        content = self._content(number)
        kinds = [content[: len(content) // 2], b"no TIFF at all\n", b"", b"\0" * 20_000]
        name = self._name(number, way)
        self._path(name).write_bytes(kinds[number % len(kinds)])
        self._wrote(name, way, good=False)
