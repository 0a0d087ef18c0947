"""No harm near focus: what comes back of planes 0 to 8 um out of focus, through what run and watch do by default.

    D=../shared/data
    python -m benchmarks.quality.near_focus --nuclei $D/bbbc006/infocus_w1 $D/dsb2018/520x696 \\
        --actin $D/bbbc006/infocus_w2 -o docs/results/near_focus.md

Held-out sharp fields (nuclei, actin) and drawn ones (cells, beads), their middle 256 x 320 px, are defocused for four
apertures and recorded in dim to bright light; planes that are sharp already are kept, as run and watch keep them. PSNR
refers to the noiseless sharp field, so a plane that is kept has a gain of exactly 0.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.report import made_with
from defocus import Engine
from defocus.engine.quality.assess import assess, keep_sharp_planes
from defocus.training.data.fields import Field, load_field, name_hash
from defocus.training.evaluation.heldout import CAMERA, OPTICS, PEAK_COUNTS, held_out_files
from defocus.training.evaluation.metrics import psnr
from defocus.training.physics.optics import defocus
from defocus.training.physics.specimen import draw_cells, draw_points

DISTANCES_UM = tuple(range(9))
APERTURES = (0.4, 0.5, 0.55, 0.75)
PHOTONS_PER_COUNT = (0.5, 3.0, 20.0)
MEAN_BAR, LEAST_BAR = -0.05, -0.5  # dB
CROP = (256, 320)


@dataclass(frozen=True)
class Row:
    """One plane: what it is, what was measured, and what the engine reports of it. `gain` is what the user gets."""

    specimen: str
    field: str
    na: float
    photons: float
    z: float
    before: float
    restored: float
    kept: bool
    gain: float
    focus_gain: float | None
    blur_px: float | None
    max_local_residual: float | None
    fidelity: float | None


def fields(nuclei: Sequence[Path], actin: Sequence[Path], count: int) -> dict[str, list[Field]]:
    """Up to `count` fields of each kind; the drawn ones need no files."""
    found: dict[str, list[Field]] = {}
    for name, folders in (("nuclei", nuclei), ("actin", actin)):
        if folders:
            paths = held_out_files(folders)
            chosen = sorted({round(i) for i in np.linspace(0, len(paths) - 1, count)})
            found[name] = [load_field(paths[i]) for i in chosen]
    shape = (320, 400)
    drawn, beads = [], []
    for i in range(count):
        rng = np.random.default_rng([7, i])
        drawn.append(Field(Path(f"cells_{i}"), 1000 * draw_cells(shape, rng, 30)))
        beads.append(Field(Path(f"beads_{i}"), 1000 * draw_points(shape, rng, 150, 1.2)))
    return found | {"drawn cells": drawn, "beads": beads}


def measure(engine: Engine, specimens: dict[str, list[Field]]) -> Iterator[Row]:
    """Every specimen at every distance, aperture and light."""
    for specimen, several in specimens.items():
        for field in several:
            low, high = np.percentile(field.data, (0.5, 99.9))
            bright = specimen == "beads"  # most of a field of beads is empty
            top = float(field.data.max()) if bright else float(high)
            sharp = np.clip(field.data - low, 0, None) * np.float32(PEAK_COUNTS / max(top - low, 1e-6))
            cut = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(sharp.shape, CROP, strict=True))
            truth = (sharp + CAMERA.offset)[cut]
            for na in APERTURES:
                optics = replace(OPTICS, na=na)
                for z in DISTANCES_UM:
                    image = np.clip(defocus(sharp, optics, z), 0, None)[cut]
                    for photons in PHOTONS_PER_COUNT:
                        camera = replace(CAMERA, photons_per_count=photons)
                        seed = name_hash(f"{field.path.name} {na} {z} {photons}")
                        seen = camera.expose(image, np.random.default_rng(seed))
                        output = engine(seen)
                        before, restored = psnr(truth, seen), psnr(truth, output)
                        reports = assess(seen, output, "YX")
                        (report,) = keep_sharp_planes(seen, output, "YX", reports)
                        gain = 0.0 if report.copied else restored - before
                        focus = report.focus_out / report.focus_in if report.focus_out and report.focus_in else None
                        yield Row(
                            specimen=specimen,
                            field=field.path.stem,
                            na=na,
                            photons=photons,
                            z=z,
                            before=before,
                            restored=restored,
                            kept=report.copied,
                            gain=gain,
                            focus_gain=focus,
                            blur_px=report.blur_px,
                            max_local_residual=report.max_local_residual,
                            fidelity=report.fidelity,
                        )


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown: for each aperture and light the mean gain, the least, and how many were kept, at every distance."""
    lines = [
        f"| NA | photons a count | {' | '.join(f'{z} um' for z in DISTANCES_UM)} |",
        f"|---|---|{'---|' * len(DISTANCES_UM)}",
    ]
    for na in APERTURES:
        for photons in PHOTONS_PER_COUNT:
            cells = []
            for z in DISTANCES_UM:
                at = [row for row in rows if (row.na, row.photons, row.z) == (na, photons, z)]
                gains = [row.gain for row in at]
                kept = sum(row.kept for row in at)
                cells.append(f"{np.mean(gains):+.2f} ({min(gains):+.2f}) {kept}/{len(at)}")
            lines.append(f"| {na} | {photons:g} | {' | '.join(cells)} |")
    return lines


def verdict(rows: Sequence[Row]) -> list[str]:
    """Whether the bars hold: of the mean at every step, aperture and light, and of every plane."""
    places = sorted({(row.na, row.photons, row.z) for row in rows})
    means = {place: float(np.mean([r.gain for r in rows if (r.na, r.photons, r.z) == place])) for place in places}
    worst = min(means, key=lambda place: means[place])
    least = min(rows, key=lambda row: row.gain)
    missed = sum(mean < MEAN_BAR for mean in means.values())
    below = sum(row.gain < LEAST_BAR for row in rows)
    means_met = "met" if not missed else f"missed at {missed} of {len(means)}"
    planes_met = "met" if not below else f"missed by {below} of {len(rows)}"
    return [
        f"- Mean at every step, at least {MEAN_BAR} dB: {means_met}; the lowest is {means[worst]:+.2f} dB at NA "
        f"{worst[0]}, {worst[1]:g} photons a count, {worst[2]} um.",
        f"- Every plane, at least {LEAST_BAR} dB: {planes_met}; the lowest is {least.gain:+.2f} dB ({least.specimen}, "
        f"NA {least.na}, {least.photons:g} photons a count, {least.z} um).",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--nuclei", nargs="+", type=Path, default=[], help="folders of sharp fields of nuclei")
    parser.add_argument("--actin", nargs="+", type=Path, default=[], help="folders of sharp fields of actin")
    parser.add_argument("--fields", type=int, default=2, help="fields of each kind")
    parser.add_argument("--model", default="default")
    parser.add_argument("--rows", type=Path, help="CSV file for every single plane")
    parser.add_argument("-o", "--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    specimens = fields(options.nuclei, options.actin, options.fields)
    with Engine.load(options.model, backend="cpu") as engine:
        rows = list(measure(engine, specimens))
        made = made_with(engine)
    if options.rows:
        with open(options.rows, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])))
            writer.writeheader()
            writer.writerows(map(asdict, rows))
    method = " ".join((__doc__ or "").split("\n\n")[2].split())
    lines = [
        "# No harm near focus",
        "",
        f"    python -m benchmarks.quality.near_focus --nuclei NUCLEI --actin ACTIN --fields {options.fields} "
        "-o docs/results/near_focus.md",
        "",
        f"{made}.",
        method,
        "",
        f"Gain over the input in dB, mean (least) and planes kept as they were, {options.fields} fields each of "
        f"{', '.join(specimens)}.",
        "",
        *table(rows),
        "",
        *verdict(rows),
    ]
    for specimen in specimens:
        lines += ["", f"## {specimen.capitalize()}", "", *table([row for row in rows if row.specimen == specimen])]
    text = "\n".join([*lines, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
