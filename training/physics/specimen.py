"""Specimens drawn by our own code: cells with textured nuclei, filaments and puncta. Numpy only.

They stand where real images may not: in the demo, in the tests, in pictures of the documentation, and as a
small share of what the default model is trained on.
"""

from __future__ import annotations

import math

import numpy as np


def draw_cells(
    shape: tuple[int, int],
    rng: np.random.Generator,
    cells: int | None = None,
    radius_px: float = 14.0,
) -> np.ndarray:
    """Draw a field of cells: textured nuclei in dim cytoplasm with filaments and puncta.

    Parameters
    ----------
    shape : (Y, X)
        Pixels of the field.
    cells : int, optional
        Number of cells; by default one for each 50 x 50 pixels.
    radius_px : float
        Mean radius of a nucleus.

    Returns
    -------
    float32 array (Y, X), 0 where there is nothing, nuclei about 1.
    """
    height, width = shape
    count = max(1, round(height * width / 2500)) if cells is None else cells
    field = np.zeros(shape, np.float32)
    texture = 0.6 + 0.8 * smooth_noise(shape, 1.6, rng)
    coarse = 0.5 + smooth_noise(shape, 7.0, rng)
    for _ in range(count):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        radius = radius_px * rng.uniform(0.6, 1.3)
        _draw_cytoplasm(field, coarse, y, x, radius * rng.uniform(1.6, 2.4), rng)
        _draw_nucleus(field, texture, y, x, radius, rng)
    return np.clip(field, 0, None)


def draw_points(shape: tuple[int, int], rng: np.random.Generator, count: int, radius_px: float = 1.2) -> np.ndarray:
    """Draw beads and puncta of about `radius_px`, alone and in clumps; float32 (Y, X), 0 elsewhere, the brightest 1."""
    field = np.zeros(shape, np.float32)
    while count > 0:
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        clump = min(count, 1 if rng.uniform() < 0.7 else int(rng.integers(2, 12)))
        for _ in range(clump):
            radius = radius_px * rng.uniform(0.6, 1.6)
            dy, dx = rng.normal(0, 2.5 * radius, 2) if clump > 1 else (0.0, 0.0)
            near = (np.clip(y + dy, 0, shape[0] - 1), np.clip(x + dx, 0, shape[1] - 1))
            rows, columns, distance, _ = _window(field, *near, 5 * radius)
            field[rows, columns] += rng.uniform(0.2, 1.0) / (1 + np.exp(np.clip((distance - radius) / 0.4, -50, 50)))
        count -= clump
    return field / max(float(field.max()), 1e-6)


def draw_filaments(shape: tuple[int, int], rng: np.random.Generator, count: int, width_px: float = 0.8) -> np.ndarray:
    """Draw curved filaments (microtubules, fibres) that cross the field; float32 (Y, X), about 1 on a filament."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    y, x = y - shape[0] / 2, x - shape[1] / 2
    field = np.zeros(shape, np.float32)
    reach = max(shape) / 2
    for _ in range(count):
        angle = rng.uniform(0, math.pi)
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        line = rng.uniform(-reach, reach) + rng.normal(0, 0.25) * along**2 / reach
        line = line + rng.uniform(0, 12) * np.sin(along * rng.uniform(0.01, 0.06) + rng.uniform(0, 6.3))
        field += rng.uniform(0.2, 1.0) * np.exp(-(((across - line) / (width_px * rng.uniform(0.8, 1.6))) ** 2))
    return field


def smooth_noise(shape: tuple[int, int], sigma_px: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian-filtered noise stretched to 0..1, float32 (Y, X): texture of a given grain."""
    y = np.fft.fftfreq(shape[0])[:, None]
    x = np.fft.rfftfreq(shape[1])[None, :]
    low_pass = np.exp(-2 * (math.pi * sigma_px) ** 2 * (x**2 + y**2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * low_pass, shape)
    low, high = np.percentile(noise, (1, 99))
    return np.clip((noise - low) / (high - low), 0, 1).astype(np.float32)


def _window(field: np.ndarray, y: float, x: float, reach: float) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """The part of the field within `reach` of a point, with polar coordinates about the point."""
    rows = slice(max(0, int(y - reach)), min(field.shape[0], int(y + reach) + 2))
    columns = slice(max(0, int(x - reach)), min(field.shape[1], int(x + reach) + 2))
    dy = np.arange(rows.start, rows.stop)[:, None] - y
    dx = np.arange(columns.start, columns.stop)[None, :] - x
    return rows, columns, np.hypot(dy, dx), np.arctan2(dy, dx)


def _outline(angle: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Radius of an irregular, elongated outline in each direction."""
    outline = 1 + 0.25 * rng.uniform() * np.cos(2 * (angle - rng.uniform(0, math.pi)))
    for order in (3, 4, 5):
        outline = outline + 0.06 * rng.normal() * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
    return radius * outline


def _draw_nucleus(
    field: np.ndarray, texture: np.ndarray, y: float, x: float, radius: float, rng: np.random.Generator
) -> None:
    rows, columns, distance, angle = _window(field, y, x, 1.8 * radius)
    # A soft rim of about a pixel: what an objective in focus would make of a hard one.
    inside = 1 / (1 + np.exp(np.clip((distance - _outline(angle, radius, rng)) / 0.6, -50, 50)))
    body = inside * texture[rows, columns] * rng.uniform(0.4, 1.0)
    for _ in range(rng.integers(0, 4)):  # nucleoli are dark
        r, a = radius * 0.6 * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
        away = np.hypot(distance * np.cos(angle) - r * math.cos(a), distance * np.sin(angle) - r * math.sin(a))
        body = body * (1 - 0.6 * np.exp(-((away / (0.16 * radius)) ** 2)))
    field[rows, columns] = np.maximum(field[rows, columns] * (1 - inside), 0) + body


def _draw_cytoplasm(
    field: np.ndarray, texture: np.ndarray, y: float, x: float, radius: float, rng: np.random.Generator
) -> None:
    rows, columns, distance, angle = _window(field, y, x, 1.8 * radius)
    inside = 1 / (1 + np.exp(np.clip((distance - _outline(angle, radius, rng)) / 1.5, -50, 50)))
    patch = 0.12 * inside * texture[rows, columns]
    across, along = distance * np.sin(angle), distance * np.cos(angle)
    tilt = rng.uniform(0, math.pi)
    for _ in range(rng.integers(3, 9)):  # stress fibres, nearly parallel
        turn = tilt + rng.normal(0, 0.15)
        offset, bend = rng.uniform(-0.8, 0.8) * radius, rng.normal(0, 0.15) / radius
        position = along * math.cos(turn) + across * math.sin(turn)
        line = across * math.cos(turn) - along * math.sin(turn) - offset - bend * position**2
        patch += 0.3 * rng.uniform(0.3, 1) * inside * np.exp(-((line / 0.9) ** 2))
    for _ in range(rng.integers(0, 8)):  # puncta
        r, a = radius * math.sqrt(rng.uniform()), rng.uniform(0, 2 * math.pi)
        away = np.hypot(along - r * math.cos(a), across - r * math.sin(a))
        patch += rng.uniform(0.2, 0.8) * np.exp(-((away / rng.uniform(0.8, 1.6)) ** 2))
    field[rows, columns] = np.maximum(field[rows, columns], patch)
