"""The real BBBC006 for evaluation: the paper's test fields as a suite, its training fields as pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ..data.bbbc006 import FOCUS, STEP_UM, FieldId, crops, load_pair, paper_split, read_fields
from ..data.pairs import Pair
from .paper import DISTANCES_UM
from .suite import Case, Suite, make


def bbbc006_suite(root: Path, distances: Sequence[int] | None = None) -> Suite:
    """The paper's 93 test fields, each cut into four crops of 348 x 260 (X x Y), two channels, at each distance.

    Raises InputError for a folder that is not BBBC006 as it is distributed.
    """
    _, test = paper_split(read_fields(root))
    return make("BBBC006, the paper's test fields", _cases(root, test, distances or DISTANCES_UM))


def bbbc006_pairs(root: Path, distances: Sequence[int] | None = None) -> Iterator[Pair]:
    """The paper's 675 training fields at each distance."""
    train, _ = paper_split(read_fields(root))
    for field in train:
        for z in distances or DISTANCES_UM:
            yield load_pair(root, field, FOCUS + round(z / STEP_UM), FOCUS)


def _cases(root: Path, fields: Sequence[FieldId], distances: Sequence[int]) -> Iterator[Case]:
    for field in fields:
        for z in distances:
            for pair in crops(load_pair(root, field, FOCUS + round(z / STEP_UM), FOCUS)):
                yield Case(pair.name, z, np.rint(pair.blurred).clip(0, 65535).astype(np.uint16), pair.sharp)
