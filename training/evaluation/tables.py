"""Tables 1 to 3 of the paper and the cost table, ours beside the paper's figures, as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import paper
from .cost import Cost
from .methods import Method
from .scores import INPUT, Score, mean_by_distance, methods_in

NONE = "-"
# compare.plan: the others have no such start by their authors, and some of them add their input on anyway.
START = "Networks of the coarse-to-fine kind (N = 1 to 4) start so that they pass their input on, the others at random."


@dataclass(frozen=True)
class Table:
    """A table of text: `name` is its file's, notes stand below it."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = field(default=())

    def markdown(self) -> str:
        """As GitHub shows it."""
        lines = [f"## {self.title}", "", _bars(self.header), _bars(["---"] * len(self.header))]
        lines += [_bars(row) for row in self.rows]
        return "\n".join([*lines, *(f"\n{note}" for note in self.notes), ""])

    def csv(self) -> str:
        """As a spreadsheet reads it: header and rows only."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()

    def latex(self) -> str:
        """As a paper includes it (booktabs)."""
        columns = "l" + "r" * (len(self.header) - 1)
        body = [" & ".join(map(_tex, row)) + r" \\" for row in self.rows]
        head = " & ".join(map(_tex, self.header)) + r" \\"
        notes = [rf"\par\footnotesize {_tex(note)}" for note in self.notes]
        return "\n".join(
            [
                r"\begin{table}",
                rf"\caption{{{_tex(self.title)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                head,
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                *notes,
                r"\end{table}",
                "",
            ]
        )


def table_1(scores: Sequence[Score], counts: Mapping[str, int], data: str) -> Table:
    """PSNR by number of levels and mode at each distance, with parameter counts (one channel here, two there)."""
    chosen = [name for name in methods_in(scores) if name.startswith(("residual-", "concat-"))]
    rows = []
    for name in chosen:
        ours, theirs = mean_by_distance(scores, name, "psnr"), _paper(paper.PSNR, name)
        count = f"{counts[name]:,} ({paper.PARAMETERS[name]:,}{'*' if name in paper.SUSPECT else ''})"
        rows.append((_level(name), count, *(_pair(ours, theirs, z, 2) for z in _distances(scores))))
    header = ("levels, mode", "parameters (paper's)", *_headings(scores))
    misprints = "; ".join(f"{_level(name)}: {why}" for name, why in paper.SUSPECT.items())
    notes = (
        f"PSNR in dB: ours on {data} (the paper's on BBBC006 in brackets).",
        "Our networks have one channel and the finest level sees the coarser output (eq. 3); the paper's have two.",
        f"* misprints of the paper: {misprints}.",
    )
    return Table("table1", "Table 1: levels and mode", header, tuple(rows), notes)


def table_of(
    scores: Sequence[Score], metric: str, methods: Sequence[Method], budgets: Mapping[str, str], data: str
) -> Table:
    """Table 2 (`psnr`) or 3 (`ssim`): every method at every distance, with its training budget."""
    number, reported, digits = (2, paper.PSNR, 2) if metric == "psnr" else (3, paper.SSIM, 3)
    titles = {INPUT: "input", **{method.name: method.title for method in methods}}
    oracles = {method.name for method in methods if method.knows_psf}
    rows = []
    for name in methods_in(scores):
        ours, theirs = mean_by_distance(scores, name, metric), _paper(reported, name)
        title = titles.get(name, name) + (" (o)" if name in oracles else "")
        cells = (_pair(ours, theirs, z, digits) for z in _distances(scores))
        rows.append((title, *cells, budgets.get(name, "none")))
    unit = "PSNR in dB" if metric == "psnr" else "SSIM"
    ours_too = any(name.startswith(("residual-", "concat-")) for name in methods_in(scores))
    notes = (
        f"{unit}: ours on {data} (the paper's on BBBC006 in brackets).",
        *([START] if ours_too else []),
        "(o): an oracle that is told the optics and the distance (or, where the title says so, a wrong one).",
        *(f"{method.title}: {method.note}" for method in methods if method.note),
    )
    header = ("method", *_headings(scores), "trained here")
    return Table(f"table{number}", f"Table {number}: {unit} of every method", header, tuple(rows), notes)


def cost_table(methods: Sequence[Method], costs: Mapping[str, Cost], first: str) -> Table:
    """Parameters, GFLOP and time ratio of the networks."""
    rows = tuple(
        (
            method.title,
            f"{costs[method.name].parameters:,}",
            f"{costs[method.name].gflop:.1f}",
            f"{costs[method.name].time_ratio:.2f}",
        )
        for method in methods
        if method.name in costs
    )
    notes = (f"GFLOP for a plane of 520 x 696; time in torch FP32, interleaved in one run, relative to {first}.",)
    return Table("cost", "Inference cost", ("method", "parameters", "GFLOP", "time ratio"), rows, notes)


def _distances(scores: Sequence[Score]) -> list[float]:
    return sorted({row.z_um for row in scores}, reverse=True)  # as the paper's columns


def _headings(scores: Sequence[Score]) -> list[str]:
    return [f"{z} um" for z in _distances(scores)]


def _paper(reported: Mapping[str, Sequence[float]], name: str) -> dict[float, float]:
    return dict(zip(paper.DISTANCES_UM, reported.get(paper.row_of(name), ()), strict=False))


def _pair(ours: Mapping[float, float], theirs: Mapping[float, float], z: float, digits: int) -> str:
    if z not in ours:
        return NONE
    return f"{ours[z]:.{digits}f}" + (f" ({theirs[z]:.{digits}f})" if z in theirs else "")


def _level(name: str) -> str:
    mode, _, levels = name.partition("-")
    return "N = 1 (U-Net)" if levels == "1" else f"N = {levels}, {mode}"


def _bars(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _tex(text: str) -> str:
    for plain, escaped in (("\\", r"\textbackslash{}"), ("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#")):
        text = text.replace(plain, escaped)
    return text.replace(" um", r"~\textmu m")
