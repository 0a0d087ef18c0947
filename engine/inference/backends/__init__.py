"""Backends: the runtimes that can run a model, behind one small contract, each imported only when used.

A backend answers `unavailable_reason()` with a reason or None, and opens a session for a card; a session maps float32
(N, C, H, W) to the same. To add one: a file with an object that fits `Backend`, and a line in `_WHERE`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ...errors import BackendError, MissingExtraError, ModelError, OutOfMemoryError, first_line
from ...image.normalization import Intensity
from ...installation import install_command, is_installed
from ...model.card import Card, half_precision
from ..memory import Footprint

_LOG = logging.getLogger("defocus")


class Session(Protocol):
    """A model ready to run. It serves one thread at a time."""

    @property
    def description(self) -> str:
        """What really runs, for people and provenance: "ONNX Runtime 1.32.0 CPUExecutionProvider, 2 threads"."""
        ...

    @property
    def footprint(self) -> Footprint:
        """What a run takes, as measured: tests/engine/inference/test_memory.py."""
        ...

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Map float32 (N, C, H, W) to the same shape and dtype; H and W are multiples of the card's `multiple`.

        The result is valid until the session's next run, and may be written to until then: nothing of its size need be
        made anew for each batch. Raises BackendError when the runtime fails.
        """
        ...

    def trim(self) -> None:
        """Give back the memory that is kept from run to run. Nobody may be running it."""
        ...

    def close(self) -> None:
        """Free what the session holds; it cannot run after."""
        ...


@runtime_checkable
class Uint16Session(Session, Protocol):
    """A session that can take a camera's counts as they are, and give counts back."""

    def takes_uint16(self, dtype: np.dtype) -> bool:
        """Whether `run_uint16` works here for counts of that dtype."""
        ...

    def run_uint16(self, batch: np.ndarray, intensities: Sequence[tuple[Intensity, ...]]) -> np.ndarray:
        """Map counts (N, C, H, W) to the same shape and dtype: what `normalization` and `run` give, bit for bit.

        `intensities` has a tuple of C for each of the N; flat channels keep their counts. The result is that of `run`:
        valid until the next run. Raises BackendError when the runtime fails, or the network gives values that are no
        numbers (`not_finite`).
        """
        ...


@runtime_checkable
class ExactSession(Session, Protocol):
    """A session whose `run` rounds by where a pixel lies in its tile, and that can do without, more slowly."""

    def run_exact(self, batch: np.ndarray) -> np.ndarray:
        """What `run` gives, the same wherever a pixel lies: for the tiles of a plane that is cut."""
        ...


@runtime_checkable
class StreamsSession(Session, Protocol):
    """A session on several threads of a processor that several can share."""

    def streams(self, count: int) -> Sequence[Session]:
        """Open the same model as `count` sessions that run side by side, each on its share of the threads.

        They give what `run` gives, bit for bit. No session: the model's file is no longer what it was, and this one
        goes on alone. Raises BackendError when the runtime fails.
        """
        ...


class Streamed:
    """A session together with the way to open narrower ones: a `StreamsSession`."""

    def __init__(self, whole: Session, streams: Callable[[int], Sequence[Session]]) -> None:
        self.description, self.footprint = whole.description, whole.footprint
        self.run, self.trim, self.close = whole.run, whole.trim, whole.close
        if isinstance(whole, ExactSession):
            self.run_exact = whole.run_exact
        self.streams = streams


class Backend(Protocol):
    """A runtime."""

    @property
    def name(self) -> str:
        """The word after --backend."""
        ...

    def unavailable_reason(self) -> str | None:
        """Why it cannot run here, in a few words, or None. Changes nothing and opens nothing."""
        ...

    def remedy(self) -> str:
        """What to do when it cannot run here."""
        ...

    def open(self, path: Path, card: Card, threads: int | None = None) -> Session:
        """Open a model file; `threads` None means as many as there are cores.

        Raises
        ------
        BackendError
            The runtime cannot run here, or would silently run something else.
        ModelError
            The file is not a model, or not the one its card describes.
        """
        ...


# In the order in which "auto" tries them.
_WHERE = {
    "tensorrt": ("tensorrt.backend", "TENSORRT"),
    "rtx": ("tensorrt.backend", "RTX"),
    "cuda": ("onnx_runtime", "CUDA"),
    "mnn": ("mnn", "MNN"),
    "openvino": ("openvino", "OPENVINO"),
    "cpu": ("onnx_runtime", "CPU"),
}
NAMES = tuple(_WHERE)
ON_CARD = ("tensorrt", "rtx", "cuda")  # on an NVIDIA card, which computes half precision in half the time
AUTO = "auto"


@dataclass(frozen=True)
class OpenedSession:
    """A session, the name of its backend, and why the backends before it were not taken.

    `half_sha256` is the hash of the file in half precision, where that runs in the place of the model's own.
    """

    name: str
    session: Session
    rejected_backends: dict[str, str] = field(default_factory=dict)
    half_sha256: str = ""


def not_finite(description: str) -> BackendError:
    """The error of a network that gives NaN or infinite values."""
    cause = "the network gave NaN or infinite values"
    return BackendError(description, cause, "try another --backend, or a model in full precision")


def closed(description: str) -> BackendError:
    """The error of a session that is run after its end."""
    return BackendError(description, "the session is closed", "load the engine again")


def run_failed(
    description: str, shape: tuple[int, ...], error: Exception, reason: str = "", memory: bool = False
) -> BackendError:
    """The error of a runtime that failed on a batch of `shape`; `memory` says that it was for want of memory.

    `reason` is the runtime's own; by default the first line of its error.
    """
    cause = f"failed on a batch of {'x'.join(map(str, shape))} ({reason or first_line(error)})"
    kind = OutOfMemoryError if memory or isinstance(error, MemoryError) else BackendError
    return kind(description, cause, "try a smaller --tile or another --backend")


def why_not_imported(package: str, line: Callable[[Exception], str] = first_line) -> str | None:
    """Why a package cannot be imported, None if it can; `line` says which line of the loader's error tells."""
    if not is_installed(package):
        return f"{package} is not installed"
    try:
        import_module(package)
    except Exception as error:  # a broken install fails with whatever the loader says
        return f"{package} cannot be imported ({line(error)})"
    return None


def count_of_threads(count: int) -> str:
    """For descriptions: "1 thread", "2 threads"."""
    return f"{count} thread{'s' * (count > 1)}"


def backend(name: str) -> Backend:
    """The backend of that name.

    Raises
    ------
    BackendError
        There is none of that name.
    """
    if name not in _WHERE:
        raise BackendError(f"backend {name!r}", "unknown", f"choose one of: {', '.join((AUTO, *NAMES))}")
    module, attribute = _WHERE[name]
    return getattr(import_module(f".{module}", __package__), attribute)


def open_session(name: str, path: Path, card: Card, threads: int | None = None) -> OpenedSession:
    """Open a model with the backend of that name; "auto" takes the first that really works here.

    On a card the model's file in half precision is opened in the place of `path`, where it has one (`half_precision`).
    If that file is damaged, a line in the log says so, and `path` itself is opened.

    Raises
    ------
    BackendError
        The named backend cannot run here, or none can.
    MissingExtraError
        No runtime is installed at all.
    ModelError
        The file is not a model, or not the one its card describes.
    """
    if name != AUTO:
        chosen = backend(name)
        reason = chosen.unavailable_reason()
        if reason:
            raise BackendError(f"backend {name}", reason, chosen.remedy())
        return _opened(name, path, card, threads, {})
    rejected_backends: dict[str, str] = {}
    for candidate in NAMES:
        chosen = backend(candidate)
        reason = chosen.unavailable_reason()
        if reason is None:
            try:
                return _opened(candidate, path, card, threads, rejected_backends)
            except BackendError as error:
                reason = error.cause
        rejected_backends[candidate] = reason
    if not is_installed("onnxruntime"):
        raise MissingExtraError("onnxruntime", "cpu", "running a model")
    reasons = ", ".join(f"{name}: {reason}" for name, reason in rejected_backends.items())
    raise BackendError(
        "no backend", f"works here ({reasons})", f"reinstall one: {install_command('cpu', options='--force-reinstall')}"
    )


def _opened(name: str, path: Path, card: Card, threads: int | None, rejected_backends: dict[str, str]) -> OpenedSession:
    chosen = backend(name)
    if name in ON_CARD:
        try:
            if half := half_precision(path, card):
                return OpenedSession(name, chosen.open(*half, threads), rejected_backends, half[1].sha256)
        except ModelError as error:  # the model itself is another file, which may well be whole
            _LOG.warning("%s; %s runs in full precision", error, path.name)
    return OpenedSession(name, chosen.open(path, card, threads), rejected_backends)
