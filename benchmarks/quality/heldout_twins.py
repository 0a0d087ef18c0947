"""How much the default model restores through spherical aberration: the aberrated twins of the held-out planes.

    D=../shared/data
    python -m benchmarks.quality.heldout_twins $D/bbbc006/infocus_w1 $D/bbbc006/infocus_w2 $D/dsb2018/520x696

Real optics are aberrated: this table chooses the model. Fields, camera and seeds are those of `heldout`, the pupils
those of `training.evaluation.heldout.TWINS`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import made_with
from defocus import Engine
from defocus.training.data.fields import Field, load_field
from defocus.training.evaluation.heldout import DISTANCES_UM, HELD_OUT, OPTICS, TWINS, counts_pair, held_out_files
from defocus.training.evaluation.metrics import psnr

ACTIN = "infocus_w2"
DISTANCES = tuple(z for z in DISTANCES_UM if z)
Gains = dict[tuple[float, int], list[float]]  # (waves, um): gain of each field, dB; 0 waves are the ideal optics


def measure(fields: Sequence[Field], engine: Engine) -> Gains:
    """Gain of each field through the ideal pupil and both aberrated ones, at every distance."""
    gains: Gains = {}
    for waves, optics in {0.0: OPTICS, **TWINS}.items():
        for z in DISTANCES:
            for field in fields:
                seen, sharp = counts_pair(field, z, optics)
                gains.setdefault((waves, z), []).append(psnr(sharp, engine(seen)) - psnr(sharp, seen))
    return gains


def table(gains: Gains, chosen: Sequence[int]) -> list[str]:
    """Markdown: mean gain of the fields with these numbers (least), through each pupil and both aberrated ones."""
    lines = [f"| spherical aberration | {' | '.join(f'{z} um' for z in DISTANCES)} |", "|---" * 6 + "|"]
    for waves in (0.0, *TWINS):
        cells = [[gains[waves, z][i] for i in chosen] for z in DISTANCES]
        name = f"{waves:+g} waves" if waves else "none"
        lines.append(f"| {name} | {' | '.join(f'{np.mean(cell):+.2f} ({min(cell):+.2f})' for cell in cells)} |")
    both = [np.mean([gains[waves, z][i] for waves in TWINS for i in chosen]) for z in DISTANCES]
    return [*lines, f"| mean of both | {' | '.join(f'{mean:+.2f}' for mean in both)} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sharp fields")
    parser.add_argument("--model", default="default")
    parser.add_argument("--hold-out", nargs="+", default=HELD_OUT, help="name patterns of the held-out fields")
    parser.add_argument("-o", "--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    fields = [load_field(path) for path in held_out_files(options.folders, options.hold_out)]
    with Engine.load(options.model, backend="cpu") as engine:
        gains = measure(fields, engine)
        made = made_with(engine)
    twin = next(iter(TWINS.values()))
    groups = {
        "All": list(range(len(fields))),
        "Actin": [i for i, field in enumerate(fields) if field.path.parent.name == ACTIN],
        "Nuclei": [i for i, field in enumerate(fields) if field.path.parent.name != ACTIN],
    }
    lines = [
        "# What the default model restores through spherical aberration",
        "",
        "    python -m benchmarks.quality.heldout_twins FOLDERS -o docs/results/heldout_twins.md",
        "",
        f"{made}.",
        f"Gain over the input in dB, mean (least field). The ideal pupil has NA {OPTICS.na:g}, the aberrated ones NA "
        f"{twin.na:g}; waves are root mean square. Fields, camera and noise are those of [heldout.md](heldout.md).",
    ]
    for title, chosen in groups.items():
        if chosen:
            lines += ["", f"## {title}: {len(chosen)} fields", "", *table(gains, chosen)]
    text = "\n".join([*lines, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
