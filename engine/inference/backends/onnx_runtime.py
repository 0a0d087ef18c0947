"""ONNX Runtime, on the processor ("cpu") and on an NVIDIA card ("cuda").

The provider that really runs is read back after opening: asked for CUDA, ONNX Runtime runs on the CPU without a word
when a library is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BackendError, ModelError, first_line, shortage_error
from ...installation import install_command
from ...model.card import Card, is_still
from ...model.lean_graph import split_concatenations
from ...threads import available_cores
from ..gpu.driver import has_driver
from ..memory import Footprint
from . import Streamed, closed, count_of_threads, run_failed, why_not_imported

_FATAL = 4  # ONNX Runtime's log severity: whatever is less than fatal we report ourselves, in one line
_BYTES_PER_PIXEL = 355  # on the processor, as measured: the arena grows by powers of two
_GPU = "install defocus with [gpu] instead of [cpu] in a fresh environment, or use --backend cpu"


def providers() -> list[str]:
    """The execution providers that the installed ONNX Runtime was built with, whether or not they work here."""
    try:
        import onnxruntime

        return list(onnxruntime.get_available_providers())
    except Exception:  # what an uninstalled one has left can be imported, and is empty
        return []


class OnnxRuntime:
    """One execution provider of ONNX Runtime."""

    def __init__(self, name: str, provider: str) -> None:
        self.name, self.provider = name, provider

    def unavailable_reason(self) -> str | None:
        if reason := why_not_imported("onnxruntime"):
            return reason
        import onnxruntime

        if self.provider not in onnxruntime.get_available_providers():
            return "this onnxruntime is built without CUDA" if self.name == "cuda" else f"it lacks {self.provider}"
        if self.name == "cuda" and not has_driver():
            return "no NVIDIA driver"
        return None

    def remedy(self) -> str:
        if self.name != "cuda":
            return f"install it with: {install_command('cpu')}"
        return (
            "install the NVIDIA driver, or use --backend cpu"
            if self.unavailable_reason() == "no NVIDIA driver"
            else _GPU
        )

    def open(self, path: Path, card: Card, threads: int | None = None) -> OnnxSession | Streamed:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_FATAL)
        if self.name == "cuda" and hasattr(onnxruntime, "preload_dlls"):
            _preload(onnxruntime)
        count = threads or available_cores()
        session = self._session(path, count)
        running = session.get_providers()
        if running[:1] != [self.provider]:
            cause = (
                f"ONNX Runtime fell back to {running[0] if running else 'nothing'}: a CUDA or cuDNN library is missing"
            )
            raise BackendError(f"backend {self.name}", cause, _GPU)
        _fit(path, card, session)
        description = f"ONNX Runtime {onnxruntime.__version__} {running[0]}"
        if self.name == "cuda":
            return OnnxSession(session, description + ", half precision" * (card.precision == "fp16"))

        def narrow(streams: int) -> list[OnnxSession]:
            if not is_still(path, card):
                return []
            if (threads_each := max(1, count // streams)) > 1:
                return [OnnxSession(self._session(path, threads_each), description, card) for _ in range(streams)]
            shared = self._session(path, 1)  # runs on the thread of its caller, so that all can have the same weights
            return [OnnxSession(shared, description, card) for _ in range(streams)]

        return Streamed(OnnxSession(session, f"{description}, {count_of_threads(count)}", card), narrow)

    def _session(self, path: Path, threads: int) -> Any:
        """An `onnxruntime.InferenceSession`; raises ModelError and BackendError, DefocusError for want of threads."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores from reading and writing (docs/explanation/performance.md).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_mem_pattern = False  # a plan kept for every shape ever seen would cost memory and gain no time
        # cuDNN's default tries every algorithm anew for each new tile shape.
        choices = {"cudnn_conv_algo_search": "HEURISTIC"} if self.name == "cuda" else {}
        try:
            # enable_fallback=0: otherwise a failing CUDA run prints and goes on, on the CPU.
            model = path if self.name == "cuda" else split_concatenations(path.read_bytes())
            return onnxruntime.InferenceSession(model, options, providers=[(self.provider, choices)], enable_fallback=0)
        except Exception as error:
            if refused := shortage_error(path, "to open it", error):
                raise refused from error
            if type(error).__name__ in ("InvalidProtobuf", "InvalidGraph", "NoSuchFile", "NoModel", "InvalidArgument"):
                cause = f"ONNX Runtime cannot read it ({first_line(error)})"
                raise ModelError(path, cause, "export it again with defocus-export") from error
            if "opset" in str(error).lower():
                cause = f"its ONNX operator set is newer than ONNX Runtime {onnxruntime.__version__} knows"
                raise ModelError(path, cause, "upgrade onnxruntime, or export it again with defocus-export") from error
            cause = f"ONNX Runtime cannot open {path.name} ({first_line(error)})"
            raise BackendError(f"backend {self.name}", cause, "try another --backend") from error


class OnnxSession:
    """A model opened in ONNX Runtime."""

    def __init__(self, session: Any, description: str, processor: Card | None = None) -> None:
        """`processor` is the model's card where it runs on the processor."""
        self._session, self.description, self._processor = session, description, processor
        self.footprint = Footprint(_BYTES_PER_PIXEL) if processor else Footprint()
        self._input, self._output = session.get_inputs()[0].name, session.get_outputs()[0].name
        self._half_input = session.get_inputs()[0].type == "tensor(float16)"

    def run(self, batch: np.ndarray) -> np.ndarray:
        if self._session is None:
            raise closed(self.description)
        try:
            image = batch.astype(np.float16) if self._half_input else batch
            return self._session.run([self._output], {self._input: image})[0].astype(np.float32, copy=False)
        except Exception as error:
            raise run_failed(self.description, batch.shape, error, memory=_is_out_of_memory(error)) from error

    def trim(self) -> None:
        if self._session is None or self._processor is None:
            return
        import onnxruntime

        options = onnxruntime.RunOptions()  # the arena shrinks at the end of a run, however small
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        side, dtype = self._processor.multiple, np.float16 if self._half_input else np.float32
        image = np.zeros((1, self._processor.channels, side, side), dtype)
        self._session.run([self._output], {self._input: image}, options)

    def close(self) -> None:
        self._session = None


CPU = OnnxRuntime("cpu", "CPUExecutionProvider")
CUDA = OnnxRuntime("cuda", "CUDAExecutionProvider")


def _fit(path: Path, card: Card, session: Any) -> None:
    """Check that the graph is what its card says: one (N, C, H, W) in and out, float32 or float16, N, H and W free."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        wrong = f"{len(inputs)} inputs and {len(outputs)} outputs instead of one each"
    else:
        wrong = next((problem for end in (*inputs, *outputs) if (problem := _end_problem(end, card))), None)
    if wrong:
        raise ModelError(path, f"does not fit its card ({wrong})", "export it again with defocus-export")


def _end_problem(end: Any, card: Card) -> str | None:
    if end.type not in ("tensor(float)", "tensor(float16)"):
        return f"{end.name!r} is {end.type}, not float32 or float16"
    if len(end.shape) != 4:
        return f"{end.name!r} has {len(end.shape)} dimensions instead of N, C, H, W"
    if isinstance(end.shape[1], int) and end.shape[1] != card.channels:
        return f"{end.name!r} has {end.shape[1]} channels, the card says {card.channels}"
    if any(isinstance(end.shape[i], int) for i in (0, 2, 3)):
        return f"{end.name!r} takes only one size, {end.shape}"
    return None


def _preload(onnxruntime: Any) -> None:
    """Load CUDA and cuDNN from the nvidia wheels. It prints about what it does not find: that is ours to say."""
    from contextlib import redirect_stderr, redirect_stdout, suppress
    from io import StringIO

    with suppress(Exception), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        onnxruntime.preload_dlls()


def _is_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime ran out of memory; it has no error code for it (bfc_arena.cc, cuda_call.cc)."""
    text = str(error).lower()
    words = ("failed to allocate memory", "available memory of", "bad_alloc", "cuda failure 2:", "out of memory")
    return any(word in text for word in words)
