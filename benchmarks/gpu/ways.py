"""The ways to run the network that gpu.py times: each is made by a function, which fails where it cannot run.

A way maps a batch, float32 (N, C, H, W) in host memory, to the same. `ready` is called for a batch before it is timed;
what a way does there is not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from defocus import Engine
from defocus.engine.image.normalization import Intensity, from_unit, to_unit
from defocus.engine.inference import backends
from defocus.engine.model.card import read_card

RANGE = Intensity(0.0, 60000.0)  # of the counts that the ways with counts are given


class Way:
    """What is timed. `description` says what really runs."""

    description = ""

    def ready(self, batch: np.ndarray) -> np.ndarray:
        """Whatever is done once for a batch; its result as float32, for the parity."""
        return np.array(self.run(batch))  # the next call may use its place again

    def run(self, batch: np.ndarray) -> Any:
        """What is timed."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what it holds."""


class Torch(Way):
    """torch, from host memory and back."""

    def __init__(self, network: Any, on_gpu: bool, half: bool, compiled: bool) -> None:
        import torch

        torch.backends.cudnn.allow_tf32 = False  # FP32 means FP32
        self._torch, self._device = torch, "cuda" if on_gpu else "cpu"
        self._kind = torch.float16 if half else torch.float32
        self._form = torch.channels_last if half else torch.contiguous_format
        model = copy.deepcopy(network).eval().to(device=self._device, dtype=self._kind, memory_format=self._form)
        self._call: Any = torch.compile(model) if compiled else model
        self.description = f"torch {torch.__version__}"

    def run(self, batch: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            given = self._torch.from_numpy(batch).to(self._device, self._kind, memory_format=self._form)
            return self._call(given)[0].float().cpu().numpy()

    def close(self) -> None:
        del self._call
        if self._device == "cuda":
            self._torch.cuda.empty_cache()


class OnDevice(Way):
    """ONNX Runtime CUDA, input and output bound to device memory: only the computation is timed."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise RuntimeError("this onnxruntime is built without CUDA")
        onnxruntime.preload_dlls()
        session = onnxruntime.InferenceSession(path, providers=["CUDAExecutionProvider"], enable_fallback=0)
        if session.get_providers()[0] != "CUDAExecutionProvider":
            raise RuntimeError("ONNX Runtime fell back to the CPU")
        self._runtime, self._session = onnxruntime, session
        self._binding: Any = None
        self._kept: tuple[Any, ...] = ()
        self.description = f"ONNX Runtime {onnxruntime.__version__} CUDAExecutionProvider, bound"

    def ready(self, batch: np.ndarray) -> np.ndarray:
        value = self._runtime.OrtValue
        given = value.ortvalue_from_numpy(batch, "cuda", 0)
        made = value.ortvalue_from_shape_and_type(batch.shape, np.float32, "cuda", 0)
        self._binding = self._session.io_binding()
        self._binding.bind_ortvalue_input(self._session.get_inputs()[0].name, given)
        self._binding.bind_ortvalue_output(self._session.get_outputs()[0].name, made)
        self._kept = given, made
        self.run(batch)
        return made.numpy()

    def run(self, batch: np.ndarray) -> None:
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

    def close(self) -> None:
        del self._session, self._binding, self._kept


class Backend(Way):
    """A backend of ours with this very file: `--backend` would take the one in half precision on a card."""

    def __init__(self, name: str, path: Path) -> None:
        chosen = backends.backend(name)
        if reason := chosen.unavailable_reason():
            raise RuntimeError(reason)
        self._session = chosen.open(path, read_card(path))
        self.description = self._session.description

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(batch)

    def close(self) -> None:
        self._session.close()


class OfCounts(Backend):
    """The same, given 16-bit counts that are converted on the device; the host's conversion must give the same bits."""

    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, path)
        if not isinstance(self._session, backends.Uint16Session) or not self._session.takes_uint16(np.dtype(np.uint16)):
            self.close()
            raise RuntimeError(self.description)

    def ready(self, batch: np.ndarray) -> np.ndarray:
        self._counts = (batch * RANGE.scale).astype(np.uint16)
        self._ranges = [(RANGE,) * batch.shape[1]] * len(batch)
        result = np.array(self._session.run(to_unit(self._counts, RANGE)))
        different = int((self.run(batch) != from_unit(result, RANGE, self._counts.dtype)).sum())
        if different:
            raise RuntimeError(f"the conversion on the device differs from the host's in {different} pixels")
        return result

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run_uint16(self._counts, self._ranges)  # pyright: ignore[reportAttributeAccessIssue]


class EndToEnd(Way):
    """The whole engine: 16-bit counts to 16-bit counts, intensity and tiles included."""

    def __init__(self, name: str, path: Path) -> None:
        self._engine = Engine.load(path, backend=name, tile=2048, batch=8)
        self.description = self._engine.description

    def ready(self, batch: np.ndarray) -> np.ndarray:
        self._counts = (batch * RANGE.scale).astype(np.uint16)
        return self.run(batch).astype(np.float32) / np.float32(RANGE.scale)

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._engine(self._counts, "TCYX")

    def close(self) -> None:
        self._engine.close()


def every(fp32: Path, half: Path | None, network: Any, on_gpu: bool) -> Iterator[tuple[str, Callable[[], Way]]]:
    """Every way by name, and what makes it. What takes long to begin comes last."""
    if network is not None:
        yield "torch eager FP32", lambda: Torch(network, on_gpu, False, False)
    yield "ONNX Runtime CPU FP32", lambda: Backend("cpu", fp32)
    yield "ONNX Runtime CUDA FP32", lambda: Backend("cuda", fp32)
    yield "ONNX Runtime CUDA FP32, on device", lambda: OnDevice(fp32)
    if half is not None:
        yield "ONNX Runtime CUDA FP16", lambda: Backend("cuda", half)
        yield "ONNX Runtime CUDA FP16, on device", lambda: OnDevice(half)
        for name, title in (("rtx", "TensorRT for RTX FP16"), ("tensorrt", "TensorRT FP16")):
            yield title, lambda name=name: Backend(name, half)
            yield f"{title}, counts", lambda name=name: OfCounts(name, half)
    for name in ("auto", "cuda", "rtx", "tensorrt") if on_gpu else ("auto",):
        yield f"engine end to end, {name}", lambda name=name: EndToEnd(name, half or fp32)
    if network is not None and on_gpu:
        yield "torch FP16 channels-last", lambda: Torch(network, True, True, False)
        yield "torch.compile FP16", lambda: Torch(network, True, True, True)
