"""OpenVINO on the processor ("openvino"): bfloat16 where the processor computes in it, if the model stands it.

bfloat16 has 8 bits of precision. So a session in it is proven at opening against the same model in float32, and dropped
for float32 where the two differ by more than `LEAST_DB`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BackendError, ModelError
from ...installation import install_command
from ...model.card import Card
from ...threads import available_cores
from ..memory import Footprint
from ..parity import proof_db
from . import Streamed, closed, count_of_threads, run_failed, why_not_imported

LEAST_DB = 50.0  # PSNR over the range of the float32 result


class OpenVino:
    """See `backends.Backend`."""

    name = "openvino"

    def unavailable_reason(self) -> str | None:
        return why_not_imported("openvino", _last_line)

    def remedy(self) -> str:
        return f"install it with: {install_command('openvino')}"

    def open(self, path: Path, card: Card, threads: int | None = None) -> Streamed:
        import openvino

        count, core = threads or available_cores(), _core()
        try:
            model = core.read_model(str(path))
        except Exception as error:
            # Another backend may know what this one does not.
            cause = f"cannot read {path.name} ({_last_line(error)})"
            raise BackendError("backend openvino", cause, "try another --backend") from error
        if problem := _problem(model, card):
            raise ModelError(path, f"does not fit its card ({problem})", "export it again with defocus-export")

        def compiled(precision: str, streams: int = 1) -> Any:
            settings = {
                "NUM_STREAMS": str(streams),
                "INFERENCE_NUM_THREADS": count,
                "INFERENCE_PRECISION_HINT": precision,
            }
            try:
                return core.compile_model(model, "CPU", settings)
            except Exception as error:
                cause = f"cannot compile {path.name} ({_last_line(error)})"
                raise BackendError("backend openvino", cause, "try another --backend") from error

        exact = compiled("f32")
        chosen, precision, note = exact, "f32", "f32"
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            fast = compiled("bf16")
            quality = proof_db(_runs(exact), _runs(fast), card)
            if quality >= LEAST_DB:
                chosen, precision, note = fast, "bf16", f"bf16 ({quality:.0f} dB to f32)"
            else:
                note = f"f32 (bf16 is only {quality:.0f} dB to it)"
        description = f"OpenVINO {openvino.__version__.split('-')[0]} CPU {note}"

        def narrow(streams: int) -> list[OpenVinoSession]:
            shared = compiled(precision, streams)
            return [OpenVinoSession(shared, description) for _ in range(streams)]

        return Streamed(OpenVinoSession(chosen, f"{description}, {count_of_threads(count)}"), narrow)


class OpenVinoSession:
    """A model compiled by OpenVINO."""

    def __init__(self, compiled: Any, description: str) -> None:
        self._compiled: Any = compiled
        self.description = description
        self._request: Any = compiled.create_infer_request()
        self.footprint = Footprint(360)  # measured in float32; bfloat16 takes about half

    def run(self, batch: np.ndarray) -> np.ndarray:
        if self._request is None:
            raise closed(self.description)
        try:
            return _infer(self._request, batch)
        except Exception as error:
            memory = any(words in str(error).lower() for words in ("bad_alloc", "allocate"))
            raise run_failed(self.description, batch.shape, error, _last_line(error), memory) from error

    def trim(self) -> None:
        if self._request is not None and hasattr(self._compiled, "release_memory"):
            self._compiled.release_memory()

    def close(self) -> None:
        self._request = self._compiled = None


OPENVINO = OpenVino()


@lru_cache(maxsize=1)
def _core() -> Any:
    """The one Core of this process, never let go.

    A Core gives the thread that opens it another signal stack and puts the one before back when it goes. Of two that go
    in the order in which they came, the second puts back one that has gone, and the next signal ends the process:
    Python handles them there.
    """
    import openvino

    return openvino.Core()


def _runs(compiled: Any):  # type: ignore[no-untyped-def]
    request = compiled.create_infer_request()
    return lambda batch: _infer(request, batch)


def _infer(request: Any, batch: np.ndarray) -> np.ndarray:
    request.infer({0: batch}, share_inputs=True)
    return request.get_output_tensor(0).data.astype(np.float32)  # a copy: the tensor is used again


def _problem(model: Any, card: Card) -> str | None:
    """What does not fit the card: one float32 (N, C, H, W) in and out, N, H and W free."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        return f"{len(model.inputs)} inputs and {len(model.outputs)} outputs instead of one each"
    for end in (*model.inputs, *model.outputs):
        shape, name = end.partial_shape, end.any_name
        if end.element_type.get_type_name() not in ("f32", "f16"):
            return f"{name!r} is {end.element_type.get_type_name()}, not float32"
        if shape.rank.is_dynamic or len(shape) != 4:
            return f"{name!r} does not have the dimensions N, C, H, W"
        if shape[1].is_static and shape[1].get_length() != card.channels:
            return f"{name!r} has {shape[1].get_length()} channels, the card says {card.channels}"
        if any(shape[axis].is_static for axis in (0, 2, 3)) and end in model.inputs:
            return f"{name!r} takes only one size"
    return None


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
