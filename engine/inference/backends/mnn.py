"""MNN on the processor ("mnn"), in float32.

MNN reads a format of its own, so a model is converted at its first use and kept in the user's cache folder, once its
results are proven equal to ONNX Runtime's. The conversion runs in a process of its own and calls MNN's converter
directly: the `mnnconvert` command installs a package with pip and reports its use to a server.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BackendError, DefocusError, first_line, one_line
from ...files.atomic import commit
from ...files.folders import user_cache
from ...installation import install_command, is_installed
from ...model.card import Card
from ...model.lean_graph import split_concatenations
from ...threads import available_cores
from ..memory import Footprint
from ..parity import proof_db
from . import Streamed, closed, count_of_threads, onnx_runtime, run_failed

LEAST_DB = 70.0  # PSNR to ONNX Runtime over the range of its result; about 100 dB is usual
# Networks of the last shapes are kept, for each takes a while to prepare and some 40 MB beside its images: two, so that
# two sizes may take turns, if they have no more pixels together than this.
_KEPT, _KEPT_PX = 2, 1 << 20
_CONVERT = """
import sys, _tools
_tools.mnnconvert(["", "-f", "ONNX", "--modelFile", sys.argv[1], "--MNNModel", sys.argv[2], "--bizCode", "defocus"])
"""
_FORM = 2  # of what is converted; another one is converted anew
_OUT_OF_MEMORY, _RESIZE_STATUS = 1, 3  # MNN::ErrorCode, MNN::Interpreter::SessionInfoCode
_WINOGRAD, _FAST, _EXACT = 3, 3, 2  # MNN::Interpreter::HintMode, and two of its levels
# How the lines begin that its library prints on standard output: when it is loaded, and where memory is short.
_ITS_LINES = (b"The device support", b"Alloc", b"Pipeline: ", b"Error for", b"Memory Alloc", b"Can't run session")


def on_stderr(line: str) -> None:
    """Tell the user something that is no error."""
    print(one_line(line), file=sys.stderr, flush=True)


class Mnn:
    """See `backends.Backend`."""

    name = "mnn"

    def unavailable_reason(self) -> str | None:
        for package in ("MNN", "onnxruntime"):  # ONNX Runtime proves the converted model
            if not is_installed(package):
                return f"{package} is not installed"
        try:
            _mnn()
        except Exception as error:  # a broken install fails with whatever the loader says
            return f"MNN cannot be imported ({first_line(error)})"
        return onnx_runtime.CPU.unavailable_reason()

    def remedy(self) -> str:
        return f"install it with: {install_command('mnn' if is_installed('onnxruntime') else 'cpu')}"

    def open(
        self, path: Path, card: Card, threads: int | None = None, say: Callable[[str], None] = on_stderr
    ) -> Streamed:
        count, version = threads or available_cores(), _mnn().version()
        converted = _Converted(path, card, version, say)
        description = f"MNN {version} CPU f32 ({converted.parity_db:.0f} dB to ONNX Runtime)"

        def narrow(streams: int) -> list[MnnSession]:
            threads_each = max(1, count // streams)
            return [MnnSession(converted, card, threads_each, description) for _ in range(streams)]

        whole = f"{description}, {count_of_threads(count)}"
        return Streamed(MnnSession(converted, card, count, whole), narrow)


class MnnSession:
    """A converted model, with a network for each of the last two shapes.

    MNN's fastest convolutions (Winograd's with large blocks) round to 2e-4 of the range at most, which depends on where
    the blocks lie: tiles would differ from the whole plane by ten counts of 16 bits. `run_exact` does without them.
    """

    def __init__(self, model: _Converted, card: Card, threads: int, description: str) -> None:
        self.description, self._model, self._card, self._threads = description, model, card, threads
        self.footprint = Footprint(265, cut_bytes_per_pixel=230)  # measured
        self._networks: OrderedDict[tuple[tuple[int, ...], int], _Network] = OrderedDict()
        self._closed = False

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._run(batch, _FAST)

    def run_exact(self, batch: np.ndarray) -> np.ndarray:
        return self._run(batch, _EXACT)

    def _run(self, batch: np.ndarray, level: int) -> np.ndarray:
        if self._closed:
            raise closed(self.description)
        try:
            if batch.ndim != 4 or batch.shape[1] != self._card.channels:
                raise ValueError(f"the model has {self._card.channels} channels")
            if not batch.size or batch.shape[2] % self._card.multiple or batch.shape[3] % self._card.multiple:
                raise ValueError(f"height and width are no multiples of {self._card.multiple}")
            return self._network(batch.shape, level).run(batch)
        except Exception as error:
            self._networks.clear()
            raise run_failed(self.description, batch.shape, error) from error

    def trim(self) -> None:
        self._networks.clear()

    def close(self) -> None:
        self._networks.clear()
        self._closed = True

    def _network(self, shape: tuple[int, ...], level: int) -> _Network:
        if (network := self._networks.pop((shape, level), None)) is None:
            while self._networks:
                if (
                    len(self._networks) < _KEPT
                    and sum(prod(known_shape) for known_shape, _ in self._networks) + prod(shape) <= _KEPT_PX
                ):
                    break
                self._networks.popitem(last=False)
            network = _Network(self._model.file, shape, self._threads, level)
        self._networks[shape, level] = network
        return network


class _Network:
    """The model prepared for one shape (N, C, H, W)."""

    def __init__(self, file: Path, shape: tuple[int, ...], threads: int, level: int) -> None:
        mnn = _mnn()
        self._shape = shape
        self._interpreter = mnn.Interpreter(str(file))
        self._interpreter.setSessionHint(_WINOGRAD, level)
        # "high" computes the same on a processor, and prints a line.
        options = {"backend": "CPU", "numThread": threads, "precision": "normal"}
        self._session = self._interpreter.createSession(options)
        self._input = self._interpreter.getSessionInput(self._session)
        with _without_its_lines():
            self._interpreter.resizeTensor(self._input, shape)
            self._interpreter.resizeSession(self._session)
        if self._interpreter.getSessionInfo(self._session, _RESIZE_STATUS):
            raise MemoryError("out of memory")
        self._kind = (mnn.Halide_Type_Float, mnn.Tensor_DimensionType_Caffe)

    def run(self, batch: np.ndarray) -> np.ndarray:
        mnn, (number, layout) = _mnn(), self._kind
        self._input.copyFrom(mnn.Tensor(self._shape, number, np.ascontiguousarray(batch, np.float32), layout))
        if code := self._interpreter.runSession(self._session):
            if code == _OUT_OF_MEMORY:
                raise MemoryError("out of memory")
            raise RuntimeError(f"MNN's error {code}")
        output = self._interpreter.getSessionOutput(self._session)
        if output.getShape() != self._shape:
            raise RuntimeError(f"gave shape {output.getShape()}")
        result = mnn.Tensor(self._shape, number, np.empty(self._shape, np.float32), layout)
        output.copyToHostTensor(result)
        return np.array(result.getNumpyData())  # a copy: the tensor's memory goes with it


class _Converted:
    """A model in MNN's format: its file, from the cache or converted now, and how near its results are."""

    def __init__(self, path: Path, card: Card, version: str, say: Callable[[str], None]) -> None:
        """Raises ModelError if the file is not the model that its card describes, else BackendError."""
        self._path, self._card, self._say = path, card, say
        stem = hashlib.sha256(f"{card.sha256} {card.channels} {version} {_FORM}".encode()).hexdigest()[:32]
        self.file, self._note = (user_cache("mnn") / f"{stem}{suffix}" for suffix in (".mnn", ".json"))
        if not self._is_kept():
            self._convert()

    def _is_kept(self) -> bool:
        """Whether the cache has it; damage is told and leads to another conversion."""
        try:
            note = json.loads(self._note.read_bytes())
            self.parity_db = float(note["parity_db"])
            if hashlib.sha256(self.file.read_bytes()).hexdigest() == note["sha256"] and self.parity_db >= LEAST_DB:
                return True
            reason = "was damaged"
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"cannot be read ({first_line(error)})"
        self._say(f"{self.file}: the converted model {reason}; converting {self._path.name} again")
        return False

    def _convert(self) -> None:
        reference = onnx_runtime.CPU.open(self._path, self._card)  # refuses what does not fit the card
        self._folder = tempfile.TemporaryDirectory(prefix="defocus-mnn-", ignore_cleanup_errors=True)
        cached, self.file = self.file, Path(self._folder.name, "model.mnn")
        try:
            lean = self.file.with_suffix(".onnx")
            lean.write_bytes(split_concatenations(self._path.read_bytes()))
            _convert(lean, self.file, self._path.name)
            lean.unlink()
            session = MnnSession(self, self._card, available_cores(), "MNN")
            self.parity_db = min(proof_db(reference.run, session.run, self._card), 999.0)
        finally:
            reference.close()
        if self.parity_db < LEAST_DB:
            cause = f"its results are only {self.parity_db:.0f} dB near ONNX Runtime's"
            raise BackendError("backend mnn", cause, "use another --backend")
        data = self.file.read_bytes()
        note = {"sha256": hashlib.sha256(data).hexdigest(), "parity_db": self.parity_db, "model": self._card.name}
        try:
            for target, content in ((cached, data), (self._note, json.dumps(note).encode())):
                with commit(target) as temporary:
                    temporary.write_bytes(content)
        except (DefocusError, OSError) as error:  # it stays where it is until the last session goes
            self._say(f"{cached}: the converted model cannot be kept ({first_line(error)}); it is made at each start")
        else:
            self.file = cached
            self._folder.cleanup()


def _convert(path: Path, target: Path, name: str) -> None:
    """Convert an ONNX file, called `name` in errors; raises BackendError."""
    command = [sys.executable, "-c", _CONVERT, str(path.resolve()), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, cwd=target.parent, stdin=subprocess.DEVNULL, check=False)
        if done.returncode == 0 and target.is_file():
            return
        output = [line for line in (done.stdout + done.stderr).decode(errors="replace").splitlines() if line.strip()]
        reason = output[-1].strip()[:200] if output else f"exit code {done.returncode}"
    except OSError as error:
        reason = first_line(error)
    raise BackendError("backend mnn", f"cannot convert {name} ({reason})", "try another --backend")


@cache
def _mnn() -> Any:
    """The module."""
    with _without_its_lines():
        import MNN

    return MNN


_printing = threading.Lock()


@contextmanager
def _without_its_lines() -> Iterator[None]:
    """Take MNN's lines out of what this process prints meanwhile; what others print comes after, whole."""
    with _printing, ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile())
            _flush()
            stdout = os.dup(1)
        except OSError:  # no standard output, or no room for what it says
            yield
            return
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            _flush()
            os.dup2(stdout, 1)
            os.close(stdout)
            file.seek(0)
            if others := b"".join(line for line in file if not line.startswith(_ITS_LINES)):
                with suppress(OSError):
                    os.write(1, others)


def _flush() -> None:
    """Flush what Python and the C library hold back for standard output."""
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(Exception):
        ctypes.CDLL("ucrtbase" if os.name == "nt" else None).fflush(None)


MNN = Mnn()
