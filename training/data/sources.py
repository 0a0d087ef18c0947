"""What a run on sharp images is trained on: the files of its sources, split, and the pools that crops are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.errors import InputError
from ..fit.recipe import Recipe
from .fields import Source, list_images, load_field, split
from .simulated import Pool, drawn_pool, make_pool


@dataclass(frozen=True)
class SourceSplit:
    """The files of one source: those to train on and those held out."""

    source: Source
    train: list[Path]
    held_out: list[Path]

    def record(self) -> dict[str, Any]:
        """For split.json: paths below the source's folder."""
        folder = self.source.folder
        train, held_out = (
            [path.relative_to(folder).as_posix() for path in paths] for paths in (self.train, self.held_out)
        )
        return {"folder": folder.name, "weight": self.source.weight, "train": train, "held_out": held_out}


def split_sources(sources: Sequence[Source], held_out: Sequence[str]) -> list[SourceSplit]:
    """List the files of each source and split them. Raises InputError if nothing is left to train on."""
    splits = [SourceSplit(source, *split(list_images(source.folder), held_out)) for source in sources]
    if splits and not any(each.train for each in splits):
        raise InputError(sources[0].folder, "every image is held out", "hold out fewer files")
    return splits


def load_pools(splits: Sequence[SourceSplit], recipe: Recipe) -> list[Pool]:
    """Read what is trained on, each source with its share, and draw the specimens that have theirs."""
    total = sum(each.source.weight for each in splits)
    pools = [
        make_pool([load_field(path) for path in each.train], each.source.weight / total * (1 - recipe.drawn_share))
        for each in splits
        if each.train
    ]
    if recipe.drawn_share > 0 or not pools:
        pools.append(drawn_pool(recipe.seed, recipe.drawn_share or 1.0))
    return pools
