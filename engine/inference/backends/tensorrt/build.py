"""Building a TensorRT engine from an ONNX graph, with progress. TensorRT and TensorRT for RTX share the calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import BackendError, InputError, OutOfMemoryError, first_line
from ....model.card import Card
from .config import BuildConfig
from .precision import HALF, LayerPrecision, network_precision, require


@dataclass(frozen=True)
class Built:
    """A serialized engine, the types of the network it was made of, and how long it took, s."""

    data: bytes
    precision: LayerPrecision
    seconds: float


def build(
    trt: Any, path: Path, card: Card, recipe: BuildConfig, say: Callable[[str], None], timing: bytes = b""
) -> tuple[Built, bytes]:
    """Build an engine from an ONNX file; also returns the timing cache, empty for TensorRT for RTX, which has none.

    `trt` is the module `tensorrt` (the GPU is needed and CUDA must be initialised) or `tensorrt_rtx` (neither, if
    `recipe.capabilities` are given). `say` gets a line now and then.

    Raises
    ------
    BackendError
        The parser does not take the graph, its ends are not float32, it is not in the precision asked for, or the build
        failed: another backend may do. OutOfMemoryError where memory ran out.
    """
    start = time.perf_counter()
    log = make_log(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(path.read_bytes()):
        cause = f"TensorRT cannot read it ({_why_not_read(parser) or first_line(log.last)})"
        raise BackendError(path, cause, f"export it again with {HALF}, or use --backend cuda or cpu")
    for end in (network.get_input(0), network.get_output(0)):
        if end.dtype != trt.DataType.FLOAT:
            cause = f"its {end.name!r} is {end.dtype.name}, and TensorRT is given float32 here"
            raise BackendError(path, cause, "export it again without --fp16-io, or use --backend cuda or cpu")
    precision = network_precision(network)
    require(precision, recipe, path)
    config, cache = _configure(trt, builder, network, recipe, timing)
    # TensorRT keeps no reference to its monitor: it must live as long as the build.
    monitor = config.progress_monitor = make_progress(trt, say)
    data = builder.build_serialized_network(network, config)
    del monitor
    if data is None:
        error = OutOfMemoryError if out_of_memory(log.last) else BackendError
        raise error(
            path, f"TensorRT cannot build an engine of it ({first_line(log.last)})", "try --backend cuda or cpu"
        )
    timings = bytes(cache.serialize()) if cache is not None else b""
    return Built(bytes(data), precision, time.perf_counter() - start), timings


def _why_not_read(parser: Any) -> str:
    """The parser's first error with the operator it is about."""
    if not parser.num_errors:
        return ""
    error = parser.get_error(0)
    return f"operator {error.node_operator()}: {first_line(error.desc())}"


def _configure(trt: Any, builder: Any, network: Any, recipe: BuildConfig, timing: bytes) -> tuple[Any, Any]:
    """A builder configuration, and its timing cache where there is one."""
    config = builder.create_builder_config()
    source = network.get_input(0)
    for profile in recipe.profiles:
        bounds = builder.create_optimization_profile()
        shapes = ((n, source.shape[1], h, w) for n, h, w in (profile.least, profile.best, profile.most))
        bounds.set_shape(source.name, *shapes)
        if config.add_optimization_profile(bounds) < 0:
            raise InputError(f"profile {profile}", "TensorRT does not take it", "choose other sizes")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector names no types
    if recipe.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace)
    if recipe.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if recipe.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if hasattr(trt, "ComputeCapability"):  # TensorRT for RTX: compiles on the card, so that nothing is timed here
        wanted = recipe.capabilities or ("CURRENT",)
        unknown = [name for name in wanted if name not in trt.ComputeCapability.__members__]
        if unknown:
            cause = f"TensorRT for RTX cannot build for {', '.join(unknown)}"
            known = (capability for capability in trt.ComputeCapability.__members__ if capability.startswith("SM"))
            raise BackendError("TensorRT", cause, f"it knows {', '.join(known)}")
        config.num_compute_capabilities = len(wanted)
        for index, name in enumerate(wanted):
            config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
        return config, None
    cache = config.create_timing_cache(timing)
    # A timing cache of another version or card is refused: then an empty one.
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return config, cache


def make_log(trt: Any) -> Any:
    """A logger that prints nothing and keeps the last error's text in `last`."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last = message

    return Log()


def make_progress(trt: Any, say: Callable[[str], None], every: float = 5.0) -> Any:
    """A monitor that says, at most every so many seconds, which phase the build is in and how far."""

    class Progress(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._start = self._said = time.monotonic()
            self._lock = threading.Lock()  # TensorRT calls from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                now = time.monotonic()
                if now - self._said >= every:
                    self._said = now
                    of = self._steps.get(phase_name, step + 1)
                    say(f"building: {phase_name}, step {step + 1} of {of}, {now - self._start:.0f} s")
            return True

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                self._steps.pop(phase_name, None)

    return Progress()


def out_of_memory(message: str) -> bool:
    """Whether TensorRT's message says that memory ran out."""
    return "outofmemory" in message.lower().replace(" ", "")
