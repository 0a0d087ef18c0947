"""The card of a model about to be exported, from the recipe that trained it."""

from __future__ import annotations

from datetime import UTC, datetime

from ..engine.model.card import Card, Percentiles
from ..training.fit.recipe import Recipe
from ..training.networks.coarse_to_fine import MULTIPLE

# Measured on the default model by benchmarks/quality/halo.py (docs/results/tiles.md has the table).
HALO = 224


def describe(recipe: Recipe, name: str, training_data: str, licence: str, halo: int | None = None) -> Card:
    """Say of a model what its recipe knows. `halo` in pixels, None for the measured default of the network.

    The optics are those that were simulated: of measured planes they are not known.
    """
    simulated = not recipe.measured
    return Card(
        name=name,
        channels=recipe.channels,
        multiple=MULTIPLE,
        halo=HALO if halo is None else halo,
        intensity=Percentiles(),
        pixel_size_um=recipe.pixel_um if simulated else None,
        na_range=recipe.na if simulated else None,
        wavelength_um_range=recipe.wavelength_um if simulated else None,
        defocus_um_range=recipe.defocus_um if simulated or any(recipe.defocus_um) else None,
        training_data=training_data,
        date=datetime.now(UTC).date().isoformat(),
        licence=licence,
    )
