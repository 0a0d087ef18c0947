"""The engine cache: built engines in the user's cache folder, each beside a JSON of what it is and how it was built.

The JSON is written last and holds the engine's hash: an engine without it, or of another hash, does not count. Nothing
that is wrong with the cache is ever more than one line and a rebuild.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from ....errors import BackendError, DefocusError
from ....files.atomic import commit
from ....files.folders import user_cache

T = TypeVar("T")
WAIT = 30 * 60.0  # seconds that one process waits for another's build of the same engine


@dataclass(frozen=True)
class PlanKey:
    """What an engine is tied to: two machines or models that differ in any of it never share one.

    `profiles` and `options` are text (`config.Profile`, `BuildConfig.options`), `compute_capability` is "SM89".
    """

    model_sha256: str
    precision: str
    profiles: tuple[str, ...]
    flavour: str
    version: str
    system: str
    gpu: str
    compute_capability: str
    multiprocessors: int
    options: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The file name's stem."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    def differs(self, other: PlanKey) -> list[str]:
        """The fields in which another key differs, in words."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name} {theirs[name]}" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class CachedPlan:
    """One engine of the cache: its key, file, size in bytes, and how it was built (`notes`: seconds, precision...)."""

    key: PlanKey
    path: Path
    size: int
    sha256: str
    built: str
    notes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        key, note = self.key, self.notes.get("precision", "")
        profiles, card = ", ".join(key.profiles), f"{key.gpu} {key.compute_capability}"
        if not key.multiprocessors:  # built without a card, for whole generations: they are among its options
            card = " ".join(("any", *(option for option in key.options if option.startswith("SM"))))
        return (
            f"{self.notes.get('model', key.model_sha256[:12])} {key.precision} [{profiles}] {key.flavour} "
            f"{key.version}, {card}, {self.size / 2**20:.1f} MiB, built {self.built}" + (f", {note}" if note else "")
        )


class PlanCache:
    """The engines in one folder, which is made when needed. `say` gets a line where the user should know."""

    def __init__(self, folder: Path | None = None, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder, self._say = user_cache("engines") if folder is None else Path(folder), say

    def load_or_build(
        self,
        key: PlanKey,
        build: Callable[[], tuple[bytes, dict[str, Any]]],
        accept: Callable[[bytes], T],
        wait: float = WAIT,
    ) -> T:
        """Give the engine of that key to `accept`, from the cache or newly built, and return its result.

        Parameters
        ----------
        build : callable
            Returns the serialized engine and notes for its JSON. Of two processes one builds, the other waits.
        accept : callable
            Makes something of the bytes, or raises BackendError: a kept engine is then rebuilt, a new one is an error.
        wait : float
            Seconds to wait for another process's build.

        Raises
        ------
        BackendError
            A new engine was not accepted, or the other process took too long.
        DefocusError
            Whatever `build` raises.
        """
        before = self._mark(key)
        if accepted := self._accepted(key, accept):
            return accepted[0]
        with self._locked(key, wait):
            # Another process may have built it since that look, whether or not it had to be waited for.
            if self._mark(key) != before and (accepted := self._accepted(key, accept)):
                return accepted[0]
            data, notes = build()
            self._keep(key, data, notes)
        return accept(data)

    def entries(self) -> list[CachedPlan]:
        """The whole engines that are here, newest first."""
        plans = [entry for path in self._files("*.json") if (entry := _read_sidecar(path)) and entry.path.is_file()]
        return sorted(plans, key=lambda entry: entry.built, reverse=True)

    def clear(self) -> int:
        """Delete every engine and all that belongs to them but the (empty) locks; how many engines there were.

        Raises
        ------
        BackendError
            One of them cannot be deleted.
        """
        count = 0
        for path in self._files("*"):
            if path.suffix not in (".engine", ".json", ".timing", ".runtime", ".part"):
                continue  # not ours
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                cause = f"cannot be deleted ({error.strerror})"
                raise BackendError(path, cause, "close what uses it, or check the permissions") from error
            count += path.suffix == ".engine"
        return count

    def read_extra(self, name: str) -> bytes:
        """A file that belongs to the cache but to no engine (timings, compiled kernels); empty where there is none."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return b""

    def keep_extra(self, name: str, data: bytes) -> None:
        """Keep such a file, if that is possible."""
        with suppress(DefocusError, OSError):
            self._write(self.folder / name, data)

    def _accepted(self, key: PlanKey, accept: Callable[[bytes], T]) -> tuple[T] | None:
        """What accept made of the kept engine, or None after saying why it is of no use."""
        path = self.folder / f"{key.digest}.engine"
        entry = _read_sidecar(path.with_suffix(".json"))
        try:
            if not path.is_file():
                self._say_why_new(key)
                return None
            data = path.read_bytes()
        except OSError as error:
            self._say(f"the kept engine cannot be read ({error.strerror}): it is built again")
            return None
        if entry is None or entry.key != key or entry.sha256 != hashlib.sha256(data).hexdigest():
            self._say(f"the kept engine {path.name} is damaged: it is built again")
            return None
        try:
            return (accept(data),)
        except BackendError as error:
            if type(error) is not BackendError:  # out of memory says nothing against the engine
                raise
            self._say(f"the kept engine {path.name} is stale ({error.cause}): it is built again")
            return None

    def _mark(self, key: PlanKey) -> tuple[int, int] | None:
        """What changes when an engine is kept anew: its JSON is written last."""
        try:
            status = (self.folder / f"{key.digest}.json").stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _say_why_new(self, key: PlanKey) -> None:
        """Where an engine of the same model is kept that differs in little, name what differs."""
        near = [entry.key for entry in self.entries() if entry.key.model_sha256 == key.model_sha256]
        if near:
            closest = min((key.differs(other) for other in near), key=len)
            self._say(f"the kept engine of this model is for {', '.join(closest)}: another is built")

    def _keep(self, key: PlanKey, data: bytes, notes: dict[str, Any]) -> None:
        path = self.folder / f"{key.digest}.engine"
        sidecar = {
            "key": asdict(key),
            "sha256": hashlib.sha256(data).hexdigest(),
            "built": datetime.now(UTC).isoformat(timespec="seconds"),
            "notes": notes,
        }
        try:
            with suppress(FileNotFoundError):  # never an old JSON beside a new engine
                path.with_suffix(".json").unlink()
            self._write(path, data)
            self._write(path.with_suffix(".json"), json.dumps(sidecar, indent=1).encode())
        except (DefocusError, OSError) as error:
            reason = error.cause if isinstance(error, DefocusError) else error.strerror
            self._say(f"the engine cannot be kept in {self.folder} ({reason}): the next start builds it again")

    def _write(self, path: Path, data: bytes) -> None:
        with commit(path) as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def _locked(self, key: PlanKey, wait: float) -> Iterator[None]:
        """Hold the lock of one engine."""
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f"{key.digest}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self._say("another process builds this engine: waiting for it")
                lock.acquire(timeout=wait, poll_interval=0.2)
        except Timeout as error:
            cause = f"another process has been building this engine for {wait:.0f} s"
            raise BackendError(self.folder, cause, "wait for it or end it, then start again") from error
        except OSError:  # a folder that cannot be written: build, and say so when keeping
            yield
            return
        try:
            yield
        finally:
            lock.release()

    def _files(self, pattern: str) -> list[Path]:
        try:
            return sorted(path for path in self.folder.glob(pattern) if path.is_file())
        except OSError:
            return []


def _read_sidecar(path: Path) -> CachedPlan | None:
    """What the JSON says, or None where it is missing or makes no sense."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        key: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["key"].items()}
        engine = path.with_suffix(".engine")
        size = engine.stat().st_size if engine.exists() else 0
        return CachedPlan(
            PlanKey(**key), engine, size, str(fields["sha256"]), str(fields["built"]), dict(fields["notes"])
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
