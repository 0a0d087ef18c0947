"""Which halo makes tiles equal to the whole plane: the difference, in counts of 16 bits, for several halos.

    python -m benchmarks.quality.halo FOLDER [--model default] [-o docs/results/tiles.md]

Every plane of the folder is stretched to all of 16 bits, mirrored to about 1400 px a side, and runs whole and in tiles
of several halos.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.report import made_with, publish, table
from defocus import Engine
from defocus.engine.tiff.read import read_tiff

HALOS = (16, 32, 64, 96, 128, 160, 192, 224, 256)
SIDE = 1408
CORE = 384
HEAD = (
    "halo (px)",
    "tile (px)",
    "largest difference (counts of 16 bits)",
    "pixels that differ",
    "processor s per plane",
)


def large(plane: np.ndarray) -> np.ndarray:
    """A plane (Y, X) mirrored until it has SIDE px a side: tiles cut through it everywhere."""
    return np.pad(plane, [(0, max(0, SIDE - side)) for side in plane.shape], mode="symmetric")[:SIDE, :SIDE]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--planes", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    planes = [large(read_tiff(path).data) for path in sorted(options.folder.glob("*.tif"))[: options.planes]]
    # Stretched to the whole of 16 bits: a count is then as small as it can be.
    planes = [((p - p.min()) * (65535.0 / (int(p.max()) - int(p.min())))).astype(np.uint16) for p in planes]
    with Engine.load(options.model, backend="cpu", tile=SIDE) as engine:
        whole = [engine(plane).astype(np.int64) for plane in planes]
        made = made_with(engine)
    rows = []
    for halo in HALOS:
        tile = CORE + 2 * halo
        with Engine.load(options.model, backend="cpu", tile=tile, halo=halo) as engine:
            start = time.process_time()
            difference = [np.abs(engine(plane) - reference) for plane, reference in zip(planes, whole, strict=True)]
            seconds = (time.process_time() - start) / len(planes)
        largest = max(int(one.max()) for one in difference)
        share = float(np.mean([np.mean(one > 0) for one in difference]))
        rows.append((halo, tile, largest, f"{share:.2%}", f"{seconds:.2f}"))
    method = " ".join((__doc__ or "").split("\n\n")[2].split())
    publish("Tiles against the whole plane", [f"{made}.", method, table(HEAD, rows)], options.out)


if __name__ == "__main__":
    main()
