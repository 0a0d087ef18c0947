"""Proof of precision: the types of the layers that TensorRT will run, read back.

TensorRT 11 and TensorRT for RTX build strongly typed networks: FP16 is what the graph says, no flag asks for it. So a
request for FP16 that finds an FP32 graph is an error rather than a slow engine.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....errors import BackendError
from .config import BuildConfig

HALF = "defocus-export --fp16"
_ARITHMETIC = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_LEAST_HALF = 0.5  # a gate may have kept layers in FP32; an engine most of whose arithmetic is FP32 is not FP16


@dataclass(frozen=True)
class LayerPrecision:
    """The types of a network's layers: `layers` counts (kind, type) pairs such as ("CONVOLUTION", "HALF")."""

    layers: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def arithmetic(self) -> int:
        """How many layers multiply matrices or convolve."""
        return sum(count for (kind, _), count in self.layers.items() if kind in _ARITHMETIC)

    @property
    def half(self) -> int:
        """How many of those in half precision."""
        return sum(c for (kind, dtype), c in self.layers.items() if kind in _ARITHMETIC and dtype in ("HALF", "BF16"))

    @property
    def share(self) -> float:
        """The share of half layers among those, 0 to 1."""
        return self.half / self.arithmetic if self.arithmetic else 0.0

    def __str__(self) -> str:
        return f"{self.half} of {self.arithmetic} convolutions in half precision"


def network_precision(network: Any) -> LayerPrecision:
    """The types of a parsed network's layers."""
    counts: Counter[tuple[str, str]] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs and layer.get_output(0) is not None:
            counts[layer.type.name, layer.get_output(0).dtype.name] += 1
    return LayerPrecision(dict(counts))


def engine_precision(trt: Any, engine: Any) -> LayerPrecision | None:
    """The types of a deserialized engine's layers, from the inspector; None where it does not tell. Needs a GPU."""
    inspector = engine.create_engine_inspector()
    return inspected(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def inspected(text: str) -> LayerPrecision | None:
    """The types in the inspector's JSON; None where it names no layer with arithmetic."""
    try:
        layers = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return None
    counts: Counter[tuple[str, str]] = Counter()
    for layer in layers:
        if isinstance(layer, dict):
            kind = _kind(f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower())
            outputs = layer.get("Outputs") or [{}]
            counts[kind, _dtype(str(outputs[0].get("Format/Datatype", "")))] += 1
    precision = LayerPrecision(dict(counts))
    return precision if precision.arithmetic else None


def require(precision: LayerPrecision, recipe: BuildConfig, path: Path) -> None:
    """Raise BackendError unless the layers are in the precision asked for."""
    if recipe.precision == "fp16" and precision.share < _LEAST_HALF:
        cause = f"FP16 is asked for, but the graph has only {precision}, and TensorRT changes no types"
        raise BackendError(path, cause, f"make an FP16 graph with {HALF}")
    if recipe.precision == "fp32" and precision.half:
        raise BackendError(path, f"FP32 is asked for, but the graph has {precision}", "ask for fp16")


def _kind(name: str) -> str:
    if "deconv" in name:
        return "DECONVOLUTION"
    if "conv" in name:
        return "CONVOLUTION"
    return "MATRIX_MULTIPLY" if "gemm" in name or "matmul" in name or "matrix" in name else "OTHER"


def _dtype(text: str) -> str:
    text = text.lower()
    for name, marks in {"BF16": ("bf16",), "HALF": ("half", "fp16"), "FLOAT": ("float", "fp32")}.items():
        if any(mark in text for mark in marks):
            return name
    return text.upper() or "UNKNOWN"
