"""How far the engine's own account of a plane can be trusted: focus score, fidelity, verdict, on held-out fields.

    D=../shared/data
    python -m benchmarks.quality.trust $D/bbbc006/infocus_w1 $D/bbbc006/infocus_w2 $D/dsb2018/520x696 \
        --beads $D/beads --defocused $D/bbbc006/defocused_w1_z00 -o docs/results/trust.md

Sharp fields are defocused and exposed by the optics and the camera of `training.heldout`, at full light and at a
twentieth of it. Outputs are corrupted on purpose to see whether fidelity and verdict tell them from intact ones.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.quality.trust_cases import (
    CORRUPTIONS,
    LIGHT,
    RESTORED_UM,
    Case,
    expose,
    halves,
    report,
    restored,
    strangers,
)
from benchmarks.report import made_with
from defocus import Engine
from defocus.engine.quality.focus import focus_score
from defocus.engine.quality.report import (
    DOUBTFUL_LOCAL_RESIDUAL,
    DOUBTFUL_POLARITY,
    DOUBTFUL_SHARE,
    SHARP_BLUR_PX,
    SHARP_GAIN,
    SHARP_LOCAL_RESIDUAL,
    PlaneReport,
)
from defocus.engine.tiff.read import read_tiff
from defocus.training.data.fields import Field, list_images, load_field
from defocus.training.evaluation.heldout import (
    CAMERA,
    DISTANCES_UM,
    HELD_OUT,
    OPTICS,
    TWINS,
    counts_pair,
    held_out_files,
)

SERIES_UM = tuple(range(0, 36, 2))
FIELDS = 12


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


def focus_lines(fields: Sequence[Field], beads: Path | None) -> Iterator[str]:
    yield "## Focus score: does it rank by distance?"
    yield ""
    yield f"Spearman's rho of score and distance, {len(SERIES_UM)} planes from 0 to 34 um, at 1500 and at 75 counts;"
    yield "the scores at 0, 8, 16 and 34 um in cycles per pixel."
    yield ""
    yield "| field | rho, 1500 counts | rho, 75 counts | score at 0 | 8 | 16 | 34 um |"
    yield "|---|---|---|---|---|---|---|"
    for field in fields:
        scores = {light: [focus_score(expose(field, z, light)) or 0.0 for z in SERIES_UM] for light in LIGHT}
        rho = [f"{spearman(SERIES_UM, scores[light]):+.3f}" for light in LIGHT]
        at = [f"{scores[LIGHT[0]][SERIES_UM.index(z)]:.4f}" for z in (0, 8, 16, 34)]
        yield f"| {field.path.parent.name}/{short(field)} | {' | '.join([*rho, *at])} |"
    if beads:
        from benchmarks.quality.beads import read_stacks

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
    yield "## Sharp or defocused: which planes are kept"
    yield ""
    yield f"A plane counts as sharp when `blur_px` is under {SHARP_BLUR_PX:g} px, `focus_out` under"
    yield f"{SHARP_GAIN:g} times `focus_in` and `max_local_residual` under {SHARP_LOCAL_RESIDUAL:g}."
    yield "A plane without structure is kept as well, so it counts as judged sharp here."
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
    yield f"{DOUBTFUL_LOCAL_RESIDUAL:g} in any one place; or an input whose polarity is over {DOUBTFUL_POLARITY:g}."
    yield ""
    yield "| counts | distance (um) | fidelity, least | median | residual, median | most | doubtful | unjudged |"
    yield "|---|---|---|---|---|---|---|---|"
    for light in LIGHT:
        for z in RESTORED_UM:
            here = [c.report for c in cases if c.kind == "intact" and (c.z_um, c.light) == (z, light)]
            yield f"| {light * 1500:g} | {z} | {_figures(here)} |"
    intact = [case for case in cases if case.kind == "intact" and case.light == LIGHT[0]]
    yield ""
    yield f"Against the {len(intact)} intact outputs at 1500 counts:"
    yield ""
    yield "| kind | what | planes | AUC of fidelity | of max_local_residual | of the verdict | flagged |"
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
            lambda case: np.inf if case.report.max_local_residual is None else case.report.max_local_residual,
            doubt,
        ):
            figures.append(f"{auc([figure(c) for c in intact], [figure(c) for c in wrong]):.3f}")
        note = f" ({empty} without structure)" if empty else ""
        yield f"| {kind} | {text} | {len(wrong)} | {' | '.join(figures)} | {flagged} of {len(wrong)}{note} |"
    false = sum(doubt(case) > 1 for case in intact)
    yield ""
    yield f"False alarms: {false} of {len(intact)} intact outputs at 1500 counts."
    yield ""
    polarities = {
        kind: [case.report.polarity for case in cases if case.kind == kind and case.report.polarity is not None]
        for kind in ("intact", "brightfield")
    }
    yield (
        f"`polarity`: at most {max(polarities['intact']):.2f} in the intact planes of both lights, at least "
        f"{min(polarities['brightfield']):.2f} in brightfield."
    )


def gain(one: PlaneReport) -> float:
    return (one.focus_out or 0.0) / (one.focus_in or np.inf)


def _defocused(one: PlaneReport) -> float:
    return max(
        (one.blur_px or 0.0) / SHARP_BLUR_PX,
        gain(one) / SHARP_GAIN,
        (one.max_local_residual or 0.0) / SHARP_LOCAL_RESIDUAL,
    )


def _spread(values: Sequence[float], digits: int) -> str:
    return " .. ".join(f"{value:.{digits}f}" for value in np.percentile(values, (0, 50, 100))) if values else "-"


def _figures(reports: Sequence[PlaneReport]) -> str:
    judged = [one for one in reports if one.fidelity is not None and one.max_local_residual is not None]
    doubtful, empty = sum((one.doubt or 0) > 1 for one in reports), len(reports) - len(judged)
    if not judged:
        return f"- | - | - | - | {doubtful} | {empty}"
    shares, worst = [one.fidelity or 0.0 for one in judged], [one.max_local_residual or 0.0 for one in judged]
    return (
        f"{min(shares):.4f} | {np.median(shares):.4f} | {np.median(worst):.3f} | {max(worst):.3f} | "
        f"{doubtful} of {len(reports)} | {empty}"
    )


def real_lines(engine: Engine, beads: Path | None, folder: Path | None) -> Iterator[str]:
    groups: dict[str, list[PlaneReport]] = {}
    if folder:
        planes = [np.squeeze(read_tiff(path).data) for path in list_images(folder)]
        groups[folder.name] = [report(plane, engine(plane)) for plane in planes]
    if beads:
        from benchmarks.quality.beads import read_stacks

        for planes in read_stacks(beads).values():
            for z, plane in planes.items():
                group = f"beads, {5 * round(abs(z) / 5)} um"
                groups.setdefault(group, []).append(report(plane, engine(plane)))
    if not groups:
        return
    yield "## Real defocus: no truth to compare with, only whether the output explains the input"
    yield ""
    yield "| planes | blur_px, median | fidelity, least | median | residual, median | most | doubtful | unjudged |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, reports in sorted(groups.items(), key=lambda item: (len(item[0]), item[0])):
        blur = [one.blur_px for one in reports if one.blur_px is not None]
        yield f"| {name} ({len(reports)}) | {np.median(blur) if blur else np.nan:.1f} | {_figures(reports)} |"


def aberrated_lines(fields: Sequence[Field]) -> Iterator[str]:
    yield "## Aberrated blur: the truth as the output"
    yield ""
    yield "`blur_px` over the radius of the geometric disk, least .. median .. most of the fields, and the most left"
    yield "unexplained."
    yield "NA and waves of spherical aberration, root mean square."
    yield ""
    yield f"| optics | {' | '.join(f'{z} um' for z in DISTANCES_UM[1:])} |"
    yield f"|---|{'---|' * len(DISTANCES_UM[1:])}"
    for waves, optics in {0.0: OPTICS, **TWINS}.items():
        cells = []
        for z in DISTANCES_UM[1:]:
            pairs = [counts_pair(field, z, optics) for field in fields]
            found = [report(seen, truth.round().astype(np.uint16)) for seen, truth in pairs]
            disk = optics.disk_radius_um(z) / optics.pixel_um
            left = max(1 - (one.fidelity or 0.0) for one in found)
            cells.append(f"{_spread([(one.blur_px or 0.0) / disk for one in found], 2)}; {left:.4f}")
        yield f"| NA {optics.na}, {waves:+g} | {' | '.join(cells)} |"


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
        made = made_with(engine)
        cases = [*restored(fields, engine), *halves(fields, engine), *strangers(engine, fields[0].data.shape)]
        parts = [
            focus_lines(fields, options.beads),
            sharp_lines(cases),
            trust_lines(cases),
            real_lines(engine, options.beads, options.defocused),
            aberrated_lines(fields),
            cost_lines(fields, engine),
        ]
        body = [line for part in parts for line in ["", *part]]
    folders = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in options.folders)
    lines = [
        "# How far the reports can be trusted",
        "",
        "What the numbers mean: [explanation/trust.md](../explanation/trust.md).",
        "",
        "    python -m benchmarks.quality.trust FOLDERS --beads BEADS --defocused DEFOCUSED -o docs/results/trust.md",
        "",
        f"FOLDERS: {folders}; {len(fields)} held-out fields.",
        f"{made}; {perf_counter() - start:.0f} s on {os.cpu_count()} cores.",
        f"Optics: NA {OPTICS.na}, {OPTICS.wavelength_um} um, {OPTICS.pixel_um} um per pixel; "
        f"{CAMERA.photons_per_count:g} photons per count, {CAMERA.read_noise:g} counts of read noise.",
        *body,
    ]
    text = "\n".join([line.rstrip() for line in lines] + [""])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
