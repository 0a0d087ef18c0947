"""Parity: how near two ways to run a model are, as PSNR in dB."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..image.tiling import round_up
from ..model.card import Card

_PROOF_PX = 128
_PROOF_SEEDS = (0, 1)


def psnr(expected: np.ndarray, result: np.ndarray) -> float:
    """Over the range of what is expected, dB; minus infinity for values that are no numbers."""
    error = float(np.sqrt(np.mean(np.square(result.astype(np.float64) - expected))))
    if not np.isfinite(error):
        return -np.inf
    return float(20 * np.log10(float(np.ptp(expected)) / error)) if error else np.inf


def proof_db(exact: Callable[[np.ndarray], np.ndarray], fast: Callable[[np.ndarray], np.ndarray], card: Card) -> float:
    """The least PSNR between two ways to run a model over a few planes: soft discs with camera noise, in unit range.

    Both map float32 (N, C, H, W) to the same.
    """
    side = round_up(_PROOF_PX, card.multiple)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    least = np.inf
    for seed in _PROOF_SEEDS:
        rng = np.random.default_rng(seed)
        plane = np.zeros((side, side), np.float32)
        for cy, cx, radius in rng.uniform((0, 0, 4), (side, side, 16), (12, 3)):
            plane += 1 / (1 + np.exp((np.hypot(y - cy, x - cx) - radius) / (1 + 3 * seed)))
        plane = np.clip(plane, 0, 1.5) + rng.normal(0, 0.02, plane.shape)
        batch = np.repeat(plane[None, None].astype(np.float32), card.channels, axis=1)
        least = min(least, psnr(exact(batch), fast(batch)))
    return least
