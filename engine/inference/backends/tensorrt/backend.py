"""TensorRT ("tensorrt", 11 or newer) and TensorRT for RTX ("rtx"), which share their calls.

An engine is built at first use, with progress on stderr, and kept in the user's cache (`plan_cache`). Engines are
loaded from there only. CUDA is initialised before TensorRT is touched: without a working driver its objects crash the
process.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ....errors import BackendError, first_line, one_line
from ....installation import install_command, is_installed
from ....model.card import Card, read_card
from ... import gpu
from ...gpu.driver import REMEDY, Gpu, find_gpu, why_no_gpu
from .build import build, make_log
from .config import BuildConfig, usual_profiles
from .plan_cache import PlanCache, PlanKey
from .precision import engine_precision, require
from .session import TensorRTSession

_LEAST_VERSION = {"tensorrt": 11, "tensorrt_rtx": 1}
_OTHER = "or use --backend cuda or cpu"
_ANY = Gpu("any", (0, 0), 0, 0, (0, 0))
Say = Callable[[str], None]


def on_stderr(line: str) -> None:
    """Tell the user something that takes long, or that an engine is built anew."""
    print(one_line(f"TensorRT: {line}"), file=sys.stderr, flush=True)


class TensorRT:
    """One of the two flavours; see `backends.Backend`."""

    def __init__(self, name: str, module: str) -> None:
        self.name, self.module = name, module

    def unavailable_reason(self) -> str | None:
        """See `backends.Backend`. CUDA is asked before TensorRT's library is loaded."""
        if not is_installed(self.module):
            return f"{self.module} is not installed"
        return why_no_gpu(self._cuda()) or gpu.why_no_layer() or self._why_no_library()

    def remedy(self) -> str:
        reason = self.unavailable_reason()
        if reason in (None, why_no_gpu(self._cuda())):
            return REMEDY
        return f"install it with: {install_command(self.name)}, {_OTHER}"

    def open(self, path: Path, card: Card, threads: int | None = None) -> TensorRTSession:
        """Open an FP16 graph; its engine is built if it is not in the cache.

        Raises
        ------
        BackendError
            TensorRT cannot run here, cannot build the graph, or the engine is not in the precision asked for.
        """
        recipe, cache = BuildConfig(usual_profiles(card)), PlanCache(say=on_stderr)
        card_gpu = find_gpu(self._cuda())  # raises before TensorRT is loaded
        device = gpu.open_device()
        try:
            with device.current():
                trt = self._load()
                log = make_log(trt)
                runtime = trt.Runtime(log)
                key = self.key(trt, card, recipe, card_gpu)
                engine = cache.load_or_build(
                    _built_ahead(cache, key) or key,
                    lambda: self._build(trt, path, card, recipe, card_gpu, cache, on_stderr),
                    lambda data: _deserialized(trt, runtime, log, data),
                )
                precision = engine_precision(trt, engine)
                if precision is not None:
                    require(precision, recipe, path)
                context, keep = _contexts(trt, engine, cache, self._extra(trt, card_gpu, "runtime"))
                share = f"{precision}" if precision else recipe.precision
                description = f"{self._title()} {trt.__version__} on {card_gpu.name}, {share}, {device.layer}"
                own_graphs = not hasattr(trt, "CudaGraphStrategy")
                return TensorRTSession(
                    trt, engine, device, recipe.profiles, log, description, context, keep, own_graphs, (runtime,)
                )
        except BaseException:
            device.close()
            raise

    def build_ahead(
        self, path: Path, recipe: BuildConfig | None = None, cache: PlanCache | None = None, say: Say = on_stderr
    ) -> PlanKey:
        """Build a model's engine into the cache without running it.

        TensorRT for RTX needs no GPU for it if the recipe names compute capabilities; TensorRT always needs one.

        Raises
        ------
        BackendError
            See `open`.
        ModelError
            The file is no model of ours.
        """
        card = read_card(path)
        recipe = recipe or BuildConfig(usual_profiles(card))
        card_gpu = self._target(recipe)
        trt = self._load()
        cache = cache or PlanCache(say=say)
        key = self.key(trt, card, recipe, card_gpu)
        cache.load_or_build(key, lambda: self._build(trt, path, card, recipe, card_gpu, cache, say), lambda data: None)
        return key

    def key(self, trt: Any, card: Card, recipe: BuildConfig, card_gpu: Gpu) -> PlanKey:
        """What the engine of that model, recipe and card is kept under."""
        return PlanKey(
            model_sha256=card.sha256,
            precision=recipe.precision,
            profiles=tuple(map(str, recipe.profiles)),
            flavour=self.name,
            version=trt.__version__,
            system=f"{platform.system()} {platform.machine()}",
            gpu=card_gpu.name,
            compute_capability=card_gpu.sm,
            multiprocessors=card_gpu.multiprocessors,
            options=recipe.options,
        )

    def _build(
        self, trt: Any, path: Path, card: Card, recipe: BuildConfig, card_gpu: Gpu, cache: PlanCache, say: Say
    ) -> tuple[bytes, dict[str, Any]]:
        target = f"any {', '.join(recipe.capabilities)}" if card_gpu is _ANY else card_gpu.name
        say(f"building an engine of {path.name} for {target}; this can take minutes, but only once")
        name = self._extra(trt, card_gpu, "timing")
        built, timing = build(trt, path, card, recipe, say, cache.read_extra(name))
        if timing:
            cache.keep_extra(name, timing)
        say(f"built in {built.seconds:.1f} s, {len(built.data) / 2**20:.1f} MiB, {built.precision}")
        notes = {
            "model": card.name,
            "seconds": round(built.seconds, 2),
            "precision": str(built.precision),
            "half_share": round(built.precision.share, 4),
            "layers": {f"{kind} {dtype}": count for (kind, dtype), count in sorted(built.precision.layers.items())},
            "python": platform.python_version(),
        }
        return built.data, notes

    def _target(self, recipe: BuildConfig) -> Gpu:
        """The card to build for: any of the capabilities that the recipe names, or the one here."""
        if self.module == "tensorrt_rtx" and recipe.capabilities:
            return _ANY
        return find_gpu(self._cuda())

    def _extra(self, trt: Any, card_gpu: Gpu, kind: str) -> str:
        """The name of the timings or compiled kernels of this flavour, version and card."""
        name = f"{self.name}-{trt.__version__}-{card_gpu.name}-{card_gpu.sm}"
        return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name) + f".{kind}"

    def _why_no_library(self) -> str | None:
        try:
            trt = import_module(self.module)
            major = int(trt.__version__.split(".")[0])
        except Exception as error:  # a broken install fails with whatever the loader says
            return f"{self.module} cannot be imported ({first_line(error)})"
        least = _LEAST_VERSION[self.module]
        return None if major >= least else f"{self.module} {trt.__version__} is too old, {least} is needed"

    def _load(self) -> Any:
        reason = f"{self.module} is not installed" if not is_installed(self.module) else self._why_no_library()
        if reason:
            raise BackendError(f"backend {self.name}", reason, f"install it with: {install_command(self.name)}")
        return import_module(self.module)

    def _title(self) -> str:
        return "TensorRT for RTX" if self.module == "tensorrt_rtx" else "TensorRT"

    def _cuda(self) -> int:
        """The major version of CUDA that the installed wheel is for."""
        for cuda in (13, 12):
            try:
                version(f"{self.module}_cu{cuda}_libs")
            except PackageNotFoundError:
                continue
            return cuda
        return 12


TENSORRT = TensorRT("tensorrt", "tensorrt")
RTX = TensorRT("rtx", "tensorrt_rtx")


def _built_ahead(cache: PlanCache, key: PlanKey) -> PlanKey | None:
    """The key of an engine that was built without a card, for this one's compute capability among others."""
    for entry in cache.entries():
        other = entry.key
        if other.gpu == _ANY.name and key.compute_capability in other.options:
            same = replace(key, gpu=other.gpu, compute_capability=other.compute_capability, multiprocessors=0)
            if other == replace(same, options=other.options):
                return other
    return None


def _deserialized(trt: Any, runtime: Any, log: Any, data: bytes) -> Any:
    """The engine; BackendError where it is for another card or version, or no engine at all."""
    if hasattr(runtime, "get_engine_validity"):  # TensorRT for RTX tells before it tries
        validity, _ = runtime.get_engine_validity(data)
        if validity == trt.EngineValidity.INVALID:
            raise BackendError(
                "TensorRT", "it is for another card or version", "delete it: defocus-export --clear-engines"
            )
    log.last = ""
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BackendError("TensorRT", first_line(log.last), "delete it: defocus-export --clear-engines")
    return engine


def _contexts(trt: Any, engine: Any, cache: PlanCache, name: str) -> tuple[Callable[[], Any], Callable[[], None]]:
    """What makes an execution context without memory of its own, and what is to be done when the session closes."""
    if not hasattr(engine, "create_runtime_config") or not hasattr(trt, "CudaGraphStrategy"):
        return lambda: engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        ), lambda: None
    # TensorRT for RTX compiles kernels on the card: they are kept for the next start; and it records graphs itself.
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    kernels = config.create_runtime_cache()
    if stored := cache.read_extra(name):
        kernels.deserialize(stored)  # refused if it is of another card or driver: then they are compiled anew
    config.set_runtime_cache(kernels)

    def keep() -> None:
        data = kernels.serialize()
        if data is not None:
            cache.keep_extra(name, bytes(data))

    return lambda: engine.create_execution_context(config), keep
