"""How far the engine's own account of a plane can be trusted: focus score, fidelity, verdict, on held-out fields.

    D=../shared/data
    python benchmarks/trust.py $D/bbbc006/infocus_w1 $D/bbbc006/infocus_w2 $D/dsb2018/520x696 \
        --beads $D/beads --defocused $D/bbbc006/defocused_w1_z00 -o docs/results/trust.md

Sharp fields are defocused and exposed by the optics and the camera of `training.heldout`, at full light and at a
twentieth of it. Outputs are corrupted on purpose to see whether fidelity and verdict tell them from intact ones.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import numpy as np

from defocus import Engine, __version__
from defocus.engine import tiff
from defocus.engine.focus import focus_score
from defocus.engine.judge import judge
from defocus.engine.report import DOUBTFUL_SHARE, DOUBTFUL_WORST, SHARP_BLUR_PX, SHARP_GAIN, SHARP_WORST, PlaneReport
from defocus.training.fields import Field, list_images, load_field, name_hash
from defocus.training.heldout import CAMERA, HELD_OUT, OPTICS, counts_pair, held_out_files
from defocus.training.optics import defocus
from defocus.training.specimen import draw_cells, smooth_noise

SERIES_UM = tuple(range(0, 36, 2))
RESTORED_UM = (0, 4, 8, 12, 20, 28, 34)
LIGHT = (1.0, 0.05)  # of the 1500 counts at the peak: 75 counts are 225 photons
FIELDS = 12
PATCH, PATCHES = 48, 3  # px: about a cell; places of an output that are corrupted

Corruption = Callable[[np.ndarray, np.random.Generator, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A plane, its output and what the engine says of them; `kind` is "intact" or what was done to the output."""

    kind: str
    field: str
    z_um: float
    light: float
    report: PlaneReport


def expose(field: Field, z_um: float, light: float) -> np.ndarray:
    """The field `z_um` out of focus, uint16 (Y, X) counts."""
    rng = np.random.default_rng(name_hash(f"{field.path.name} {z_um} {light} trust"))
    return CAMERA.expose(defocus(_counts(field.path) * light, OPTICS, z_um), rng)


@lru_cache(maxsize=64)
def _counts(path: Path) -> np.ndarray:
    return counts_pair(load_field(path), 0)[1] - CAMERA.offset


def moved(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """Three patches with structure pasted 12 to 24 px from where they belong."""
    result, blend = output.copy(), _taper()
    for y, x in _places(output, rng):
        shift = rng.choice((-1, 1), 2) * rng.integers(12, 24, 2)
        to_y, to_x = np.clip(np.add(shift, (y, x)), 0, np.subtract(output.shape, PATCH))
        target = result[to_y : to_y + PATCH, to_x : to_x + PATCH]
        target += blend * (output[y : y + PATCH, x : x + PATCH] - target)
    return result


def erased(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """Three patches with structure replaced by their background."""
    result, blend = output.copy(), _taper()
    for y, x in _places(output, rng):
        target = result[y : y + PATCH, x : x + PATCH]
        target += blend * (np.percentile(target, 15) - target)
    return result


def added(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """Three blobs of 9 px radius, 0.6 times as bright as the field's bright structures, anywhere."""
    result = output.copy()
    height = 0.6 * float(np.percentile(output, 97) - np.percentile(output, 20))
    y, x = np.mgrid[: output.shape[0], : output.shape[1]]
    for _ in range(PATCHES):
        centre = rng.uniform(20, np.array(output.shape) - 20)
        away = np.hypot(y - centre[0], x - centre[1])
        result += height / (1 + np.exp(np.clip(away - 9, -50, 50)))
    return result


def mixed(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """30 % of another field's output."""
    return 0.7 * output + 0.3 * other


def texture(output: np.ndarray, rng: np.random.Generator, other: np.ndarray, z_um: float) -> np.ndarray:
    """Random texture as coarse as the blur disk, a quarter of the output's contrast: in the band the input can show."""
    grain = max(2.0, 0.35 * OPTICS.disk_radius_um(z_um) / OPTICS.pixel_um)
    noise = smooth_noise(output.shape, grain, rng) - smooth_noise(output.shape, 2 * grain, rng)
    return output + (0.25 * output.std() / noise.std()) * noise


CORRUPTIONS: tuple[Corruption, ...] = (moved, erased, added, mixed, texture)


def restored(fields: Sequence[Field], engine: Engine) -> Iterator[Case]:
    """Intact outputs at every distance and light, and corrupted ones of those at full light."""
    rng = np.random.default_rng(0)
    for light in LIGHT:
        for z in RESTORED_UM:
            pairs = [(field.path.name, seen, engine(seen)) for field in fields for seen in [expose(field, z, light)]]
            for number, (name, seen, output) in enumerate(pairs):
                yield Case("intact", name, z, light, report(seen, output))
                if light != LIGHT[0]:
                    continue
                others = [one for _, _, one in pairs[number + 1 :] + pairs[:number] if one.shape == output.shape]
                for corrupt in CORRUPTIONS:
                    if others or corrupt is not mixed:
                        wrong = corrupt(output.astype(np.float32), rng, others[0] if others else output, z)
                        yield Case(corrupt.__name__, name, z, light, report(seen, wrong))


def halves(fields: Sequence[Field], engine: Engine) -> Iterator[Case]:
    """Planes whose right half is out of focus, as on a tilted slide."""
    for field in fields:
        seen, far = expose(field, 0, LIGHT[0]), expose(field, 12, LIGHT[0])
        middle = seen.shape[1] // 2
        seen[:, middle:] = far[:, middle:]
        yield Case("half", field.path.name, 12, LIGHT[0], report(seen, engine(seen)))


def strangers(engine: Engine, shape: tuple[int, int], count: int = 12) -> Iterator[Case]:
    """Inputs that are no fluorescence planes: drawn brightfield, sharp and defocused, and noise without a specimen."""
    rng = np.random.default_rng(1)
    for number in range(count):
        cells = draw_cells(shape, rng)
        edges = sum(np.gradient(cells))  # bright on one side, dark on the other
        plane = 3000 * (1 + 0.05 * smooth_noise(shape, 60, rng)) * (1 - 0.06 * cells + 0.25 * edges)
        z = (0, 10, 20)[number % 3]
        seen = CAMERA.expose(defocus(plane, OPTICS, z), rng)
        yield Case("brightfield", "", z, 1.0, report(seen, engine(seen)))
        seen = CAMERA.expose(np.full(shape, (5.0, 100.0, 2000.0)[number % 3]), rng)
        yield Case("noise", "", 0, 1.0, report(seen, engine(seen)))


def report(seen: np.ndarray, output: np.ndarray) -> PlaneReport:
    return judge(seen, output, "YX")[0]


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation; ties get their mean rank."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def auc(low: Sequence[float], high: Sequence[float]) -> float:
    """The chance that one of `high` is above one of `low`."""
    ranks = _ranks([*high, *low])
    count = len(high)
    return float((ranks[:count].sum() - count * (count + 1) / 2) / (count * len(low)))


def doubt(case: Case) -> float:
    """A plane that cannot be judged is doubted most: it gets no figure at all."""
    value = case.report.doubt
    return np.inf if value is None else value


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _taper() -> np.ndarray:
    ramp = np.minimum(1, np.minimum(np.arange(PATCH), np.arange(PATCH)[::-1]) / 6)
    return (ramp[:, None] * ramp).astype(np.float32)


def _places(output: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Corners of patches, each that with most contrast of twelve."""
    for _ in range(PATCHES):
        tries = rng.integers(0, np.array(output.shape) - PATCH, (12, 2))
        y, x = max(tries, key=lambda at: float(output[at[0] : at[0] + PATCH, at[1] : at[1] + PATCH].std()))
        yield int(y), int(x)


def focus_lines(fields: Sequence[Field], beads: Path | None) -> Iterator[str]:
    yield "## Focus score: does it rank by distance?"
    yield ""
    yield f"Spearman's rho of score and distance, {len(SERIES_UM)} planes from 0 to 34 um, at 1500 and at 75 counts;"
    yield "the scores at 0, 8, 16 and 34 um in cycles a pixel."
    yield ""
    yield "| field | rho, 1500 counts | rho, 75 counts | score at 0 | 8 | 16 | 34 um |"
    yield "|---|---|---|---|---|---|---|"
    for field in fields:
        scores = {light: [focus_score(expose(field, z, light)) or 0.0 for z in SERIES_UM] for light in LIGHT}
        rho = [f"{spearman(SERIES_UM, scores[light]):+.3f}" for light in LIGHT]
        at = [f"{scores[LIGHT[0]][SERIES_UM.index(z)]:.4f}" for z in (0, 8, 16, 34)]
        yield f"| {field.path.parent.name}/{short(field)} | {' | '.join([*rho, *at])} |"
    if beads:
        from beads import read_stacks

        yield ""
        yield "Real bead stacks (20x / 0.75, 5 um apart), each side of focus on its own:"
        yield ""
        yield "| stack | rho below | rho above | planes | sharpest by score |"
        yield "|---|---|---|---|---|"
        for name, planes in read_stacks(beads).items():
            scores = {z: focus_score(plane) or 0.0 for z, plane in planes.items()}
            sides = [[z for z in scores if z <= 0], [z for z in scores if z >= 0]]
            rho = [f"{spearman([abs(z) for z in side], [scores[z] for z in side]):+.3f}" for side in sides]
            best = max(scores, key=lambda z: scores[z])
            yield f"| {name} | {rho[0]} | {rho[1]} | {len(scores)} | {best:+.0f} um |"


def sharp_lines(cases: Sequence[Case]) -> Iterator[str]:
    intact = [case for case in cases if case.kind == "intact"]
    yield "## Sharp or defocused: `--only-defocused`"
    yield ""
    yield f"A plane counts as sharp when `blur_px` is under {SHARP_BLUR_PX:g} px, `focus_out` under"
    yield f"{SHARP_GAIN:g} times `focus_in` and `worst` under {SHARP_WORST:g}. A plane without structure is copied,"
    yield "too: here it counts as judged sharp."
    yield ""
    yield "| light (counts) | distance (um) | blur_px, least .. median .. most | focus_out / focus_in | judged sharp |"
    yield "|---|---|---|---|---|"
    for light in LIGHT:
        for z in RESTORED_UM:
            here = [case.report for case in intact if (case.z_um, case.light) == (z, light)]
            found = [one for one in here if one.blur_px is not None]
            kept = sum(one.sharp or one.fidelity is None for one in here)
            blur, ratio = _spread([one.blur_px or 0.0 for one in found], 1), _spread([gain(one) for one in found], 2)
            yield f"| {light * 1500:g} | {z} | {blur} | {ratio} | {kept} of {len(here)} |"
    half = [case.report for case in cases if case.kind == "half"]
    kept = sum(one.sharp for one in half)
    yield ""
    yield f"Planes sharp on the left and 12 um out of focus on the right half: {kept} of {len(half)} judged sharp."
    yield ""
    yield "AUC of 0 um against 8 um and more, both lights:"
    yield ""
    judged = [case for case in intact if case.report.blur_px is not None]
    for title, figure in (
        ("all three, the largest over its threshold", _defocused),
        ("`blur_px`", lambda one: one.blur_px),
        ("`focus_out` over `focus_in`", gain),
        ("`focus_in` alone, which the specimen moves", lambda one: -one.focus_in),
    ):
        near = [figure(case.report) for case in judged if case.z_um == 0]
        far = [figure(case.report) for case in judged if case.z_um >= 8]
        yield f"- {title}: {auc(near, far):.3f}"


def trust_lines(cases: Sequence[Case]) -> Iterator[str]:
    yield "## Fidelity: does it flag wrong outputs?"
    yield ""
    yield f"Intact outputs. Doubtful: more than {DOUBTFUL_SHARE:.0%} of the structure unexplained in all, or"
    yield f"{DOUBTFUL_WORST:g} in the worst place."
    yield ""
    yield "| light (counts) | distance (um) | fidelity, least | median | worst, median | most | doubtful | unjudged |"
    yield "|---|---|---|---|---|---|---|---|"
    for light in LIGHT:
        for z in RESTORED_UM:
            here = [c.report for c in cases if c.kind == "intact" and (c.z_um, c.light) == (z, light)]
            yield f"| {light * 1500:g} | {z} | {_figures(here)} |"
    intact = [case for case in cases if case.kind == "intact" and case.light == LIGHT[0]]
    yield ""
    yield f"Against the {len(intact)} intact outputs at 1500 counts:"
    yield ""
    yield "| kind | what | planes | AUC of fidelity | of worst | of both (verdict) | flagged |"
    yield "|---|---|---|---|---|---|---|"
    what = {corrupt.__name__: (corrupt.__doc__ or "").strip() for corrupt in CORRUPTIONS}
    what |= {"brightfield": "Drawn transmitted light, phase edges.", "noise": "A flat field and its noise."}
    for kind, text in what.items():
        wrong = [case for case in cases if case.kind == kind]
        if not wrong:
            continue
        flagged = sum(doubt(case) > 1 for case in wrong)
        empty = sum(case.report.fidelity is None for case in wrong)
        figures = []
        for figure in (
            lambda case: np.inf if case.report.fidelity is None else -case.report.fidelity,
            lambda case: np.inf if case.report.worst is None else case.report.worst,
            doubt,
        ):
            figures.append(f"{auc([figure(c) for c in intact], [figure(c) for c in wrong]):.3f}")
        note = f" ({empty} without structure)" if empty else ""
        yield f"| {kind} | {text} | {len(wrong)} | {' | '.join(figures)} | {flagged} of {len(wrong)}{note} |"
    false = sum(doubt(case) > 1 for case in intact)
    yield ""
    yield f"False alarms: {false} of {len(intact)} intact outputs at 1500 counts."


def gain(one: PlaneReport) -> float:
    return (one.focus_out or 0.0) / (one.focus_in or np.inf)


def _defocused(one: PlaneReport) -> float:
    return max((one.blur_px or 0.0) / SHARP_BLUR_PX, gain(one) / SHARP_GAIN, (one.worst or 0.0) / SHARP_WORST)


def _spread(values: Sequence[float], digits: int) -> str:
    return " .. ".join(f"{value:.{digits}f}" for value in np.percentile(values, (0, 50, 100))) if values else "-"


def _figures(reports: Sequence[PlaneReport]) -> str:
    judged = [one for one in reports if one.fidelity is not None and one.worst is not None]
    doubtful, empty = sum((one.doubt or 0) > 1 for one in reports), len(reports) - len(judged)
    if not judged:
        return f"- | - | - | - | {doubtful} | {empty}"
    shares, worst = [one.fidelity or 0.0 for one in judged], [one.worst or 0.0 for one in judged]
    return (
        f"{min(shares):.4f} | {np.median(shares):.4f} | {np.median(worst):.3f} | {max(worst):.3f} | "
        f"{doubtful} of {len(reports)} | {empty}"
    )


def real_lines(engine: Engine, beads: Path | None, folder: Path | None) -> Iterator[str]:
    groups: dict[str, list[PlaneReport]] = {}
    if folder:
        planes = [np.squeeze(tiff.read(path).data) for path in list_images(folder)]
        groups[folder.name] = [report(plane, engine(plane)) for plane in planes]
    if beads:
        from beads import read_stacks

        for planes in read_stacks(beads).values():
            for z, plane in planes.items():
                group = f"beads, {5 * round(abs(z) / 5)} um"
                groups.setdefault(group, []).append(report(plane, engine(plane)))
    if not groups:
        return
    yield "## Real defocus: no truth to compare with, only whether the output explains the input"
    yield ""
    yield "| planes | blur_px, median | fidelity, least | median | worst, median | most | doubtful | unjudged |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, reports in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])):
        blur = [one.blur_px for one in reports if one.blur_px is not None]
        yield f"| {name} ({len(reports)}) | {np.median(blur) if blur else np.nan:.1f} | {_figures(reports)} |"


def cost_lines(fields: Sequence[Field], engine: Engine) -> Iterator[str]:
    seen = expose(fields[0], 16, 1.0)
    output = engine(seen)
    times: dict[str, list[float]] = {"network": [], "judge": []}
    for _ in range(9):
        for name, work in (("network", lambda: engine(seen)), ("judge", lambda: report(seen, output))):
            start = perf_counter()
            work()
            times[name].append(1000 * (perf_counter() - start))
    network, judging = (float(np.median(times[name])) for name in ("network", "judge"))
    yield "## What it costs"
    yield ""
    yield f"Medians of 9 on a plane of {seen.shape[0]} x {seen.shape[1]} px: the network {network:.0f} ms, the report "
    yield f"{judging:.1f} ms ({judging / network:.0%})."


def short(field: Field) -> str:
    stem = field.path.stem.replace("__", "_").replace("BBBC006_z_aligned_", "").replace("mcf-z-stacks-03212011_", "")
    return stem[:9].rstrip("_")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of sharp fields")
    parser.add_argument("--model", default="default")
    parser.add_argument("--hold-out", nargs="+", default=HELD_OUT, help="name patterns of the held-out fields")
    parser.add_argument("--fields", type=int, default=FIELDS, help="at most so many fields")
    parser.add_argument("--beads", type=Path, help="folder of bead stacks with planes.csv")
    parser.add_argument("--defocused", type=Path, help="folder of planes that a microscope wrote out of focus")
    parser.add_argument("-o", "--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    paths = held_out_files(options.folders, options.hold_out)
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(options.fields, len(paths))).round().astype(int))
    fields = [load_field(paths[i]) for i in chosen]
    start = perf_counter()
    with Engine.load(options.model, backend="cpu") as engine:
        model, runs = engine.card, engine.description
        cases = [*restored(fields, engine), *halves(fields, engine), *strangers(engine, fields[0].data.shape)]
        parts = [
            focus_lines(fields, options.beads),
            sharp_lines(cases),
            trust_lines(cases),
            real_lines(engine, options.beads, options.defocused),
            cost_lines(fields, engine),
        ]
        body = [line for part in parts for line in ["", *part]]
    folders = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in options.folders)
    lines = [
        "# How far the reports can be trusted",
        "",
        "What the numbers mean: [docs/trust.md](../trust.md).",
        "",
        "    python benchmarks/trust.py FOLDERS --beads BEADS --defocused DEFOCUSED -o docs/results/trust.md",
        "",
        f"FOLDERS: {folders}; {len(fields)} held-out fields.",
        f"Model {model.name}, {model.date}, sha256 {model.sha256[:16]}; defocus {__version__} on {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores, {runs}; {perf_counter() - start:.0f} s.",
        f"Optics: NA {OPTICS.na}, {OPTICS.wavelength_um} um, {OPTICS.pixel_um} um a pixel; "
        f"{CAMERA.photons_per_count:g} photons a count, {CAMERA.read_noise:g} counts of read noise.",
        *body,
    ]
    text = "\n".join([line.rstrip() for line in lines] + [""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
