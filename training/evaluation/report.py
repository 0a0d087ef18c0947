"""The written result of an evaluation: tables, figures and scores in one folder."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ...engine._version import __version__
from .compare import machine
from .cost import Cost, gflop, parameters, time_ratios
from .figure import comparison, scatter
from .methods import Method
from .scores import Score, evaluate, save
from .suite import Suite
from .tables import Table, cost_table, table_1, table_of

TIMED_SHAPE = (256, 352)


def report(
    suite: Suite,
    methods: Sequence[Method],
    out: Path,
    budgets: Mapping[str, str],
    command: str,
    figures: Sequence[tuple[Suite, str]] = (),
    tell: Callable[[str], None] = print,
) -> list[Score]:
    """Evaluate methods on a suite and write everything into `out`.

    Writes methods.md (all tables), table1..3 and cost as .csv and .tex, scores.csv (a row for each plane), scatter.png
    and .pdf, and figure_FIELD.png and .pdf for each (suite, field) of `figures`.
    """
    out.mkdir(parents=True, exist_ok=True)
    scores = list(evaluate(suite, methods, tell))
    save(scores, out / "scores.csv")
    costs = network_costs(methods, tell)
    data = f"the suite {suite.title!r} ({len(suite.fields)} fields, checksum {suite.checksum[:12]})"
    tables: list[Table] = []
    if any(name.startswith(("residual-", "concat-")) for name in costs):
        tables.append(table_1(scores, {name: cost.parameters for name, cost in costs.items()}, data))
    tables += [table_of(scores, metric, methods, budgets, data) for metric in ("psnr", "ssim")]
    if costs:
        tables.append(cost_table(methods, costs, next(method.title for method in methods if method.name in costs)))
    for table in tables:
        (out / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        (out / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
    tell("figures")
    pictures = [path for path in scatter(scores, out) if path.suffix == ".png"]
    for drawn, name in figures:
        pictures += [path for path in comparison(drawn, name, methods, out) if path.suffix == ".png"]
    lines = [
        "# The methods compared",
        "",
        f"    {command}",
        "",
        f"defocus {__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads of {machine()}, "
        f"{datetime.date.today().isoformat()}.",
        f"Suite {suite.title!r}, checksum `{suite.checksum}`.",
        "",
        *(table.markdown() for table in tables),
        *(f"![{path.stem}]({path.name})\n" for path in pictures),
    ]
    (out / "methods.md").write_text("\n".join(lines), encoding="utf-8")
    return scores


def network_costs(methods: Sequence[Method], tell: Callable[[str], None] = print) -> dict[str, Cost]:
    """Cost of each method that is a network, the time relative to the first."""
    tell("inference cost")
    networks = {method.name: (method.network, method.channels) for method in methods if method.network is not None}
    ratios = time_ratios(list(networks.values()), TIMED_SHAPE)
    return {
        name: Cost(parameters(network), gflop(network, channels=channels), ratio)
        for (name, (network, channels)), ratio in zip(networks.items(), ratios, strict=True)
    }
