"""How much the default model restores: PSNR and SSIM on held-out fields at every distance, before and after.

    D=../shared/data
    python -m benchmarks.quality.heldout $D/bbbc006/infocus_w1 $D/bbbc006/infocus_w2 $D/dsb2018/520x696

Each sharp field is defocused by `training.heldout` (fixed optics, camera and noise), runs through the engine as a
user's file would (uint16 in, uint16 out) and is compared with the truth in counts. Richardson-Lucy with the true
PSF, 30 iterations (scikit-image), stands beside it: what a microscopist could do who knew the distance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import made_with
from defocus import Engine
from defocus.training.classical.richardson_lucy import richardson_lucy
from defocus.training.data.fields import Field, load_field
from defocus.training.evaluation.heldout import CAMERA, DISTANCES_UM, HELD_OUT, OPTICS, counts_pair, held_out_files
from defocus.training.evaluation.metrics import psnr, ssim
from defocus.training.physics.optics import psf

Row = dict[str, float | int | str]


def measure(fields: Sequence[Field], engine: Engine) -> Iterator[Row]:
    """PSNR (dB) and SSIM of every field at every distance."""
    for field in fields:
        for z in DISTANCES_UM:
            seen, sharp = counts_pair(field, z)
            restored = engine(seen)
            oracle = deconvolve(seen, z) if z else seen
            row: Row = {"field": field.path.name, "folder": field.path.parent.name, "z": z}
            for name, image in (("input", seen), ("output", restored), ("rl", oracle)):
                row[f"{name}_psnr"], row[f"{name}_ssim"] = psnr(sharp, image), ssim(sharp, image)
            yield row


def deconvolve(seen: np.ndarray, z_um: float) -> np.ndarray:
    """Richardson-Lucy of counts (Y, X) with the true PSF, the camera's offset taken off and put back."""
    light = np.clip(seen - np.float32(CAMERA.offset), 0, None)
    return richardson_lucy(light, psf(OPTICS, z_um)) + CAMERA.offset


def table(rows: Sequence[Row]) -> str:
    """Markdown: mean over the fields, and the field with the least gain, for each distance."""
    lines = [
        "| z (um) | input PSNR / SSIM | output PSNR / SSIM | gain (dB) | least gain of a field | RL, true PSF |",
        "|---|---|---|---|---|---|",
    ]
    for z in DISTANCES_UM:
        at = [row for row in rows if row["z"] == z]
        mean = {
            name: float(np.mean([float(row[name]) for row in at]))
            for name in at[0]
            if name not in ("field", "folder", "z")
        }
        gains = {str(row["field"]): float(row["output_psnr"]) - float(row["input_psnr"]) for row in at}
        worst = min(gains, key=lambda name: gains[name])
        oracle = f"{mean['rl_psnr'] - mean['input_psnr']:+.2f} dB" if z else "-"
        lines.append(
            f"| {z} | {mean['input_psnr']:.2f} / {mean['input_ssim']:.3f} "
            f"| {mean['output_psnr']:.2f} / {mean['output_ssim']:.3f} "
            f"| {np.mean(list(gains.values())):+.2f} | {gains[worst]:+.2f} ({short(worst)}) | {oracle} |"
        )
    return "\n".join(lines)


def groups(rows: Sequence[Row], folders: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    """All rows, then those of each folder."""
    yield "All", list(rows)
    for folder in folders:
        chosen = [row for row in rows if row["folder"] == folder.rpartition("/")[2]]
        if chosen:
            yield folder, chosen


def short(name: str) -> str:
    """Well, site and channel of a BBBC006 file name, or the name itself."""
    parts = [part for part in Path(name).stem.replace("__", "_").split("_") if part]
    for well, *rest in (parts[i : i + 3] for i in range(len(parts) - 2)):
        if len(well) == 3 and well[0].isalpha() and well[1:].isdigit():
            return " ".join([well, *(part[:2] for part in rest)])
    return Path(name).stem[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sharp BBBC006 fields")
    parser.add_argument("--model", default="default")
    parser.add_argument("--hold-out", nargs="+", default=HELD_OUT, help="name patterns of the held-out fields")
    parser.add_argument("-o", "--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    fields = [load_field(path) for path in held_out_files(options.folders, options.hold_out)]
    with Engine.load(options.model, backend="cpu") as engine:
        rows = list(measure(fields, engine))
        made = made_with(engine)
    folders = [f"{folder.parent.name}/{folder.name}" for folder in options.folders]
    lines = [
        "# What the default model restores",
        "",
        f"    python -m benchmarks.quality.heldout FOLDERS -o docs/results/heldout.md  # "
        f"the folders: {', '.join(folders)}",
        "",
        f"{made}.",
        f"Optics: NA {OPTICS.na}, {OPTICS.wavelength_um} um, {OPTICS.pixel_um} um per pixel; "
        f"{CAMERA.photons_per_count:g} photons per count, {CAMERA.read_noise:g} counts of read noise. The fields are",
        "sharp ones, defocused by simulation; PSNR and SSIM are those of `training/evaluation/metrics.py`.",
        "Richardson-Lucy (RL) runs for 30 iterations. It is told the true PSF, and that the field goes on mirrored",
        "beyond its borders, as the simulation made it: more than it could know of a real image.",
    ]
    for title, chosen in groups(rows, folders):
        names = list(dict.fromkeys(short(str(row["field"])) for row in chosen))
        lines += ["", f"## {title}: {len(names)} held-out", "", f"{', '.join(names)}.", "", table(chosen)]
    text = "\n".join([*lines, ""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
