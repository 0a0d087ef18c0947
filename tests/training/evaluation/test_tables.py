"""Scores, tables, figures and costs of an evaluation, on small drawn cases and simple methods."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')
pytest.importorskip("matplotlib", reason='needs Matplotlib: pip install ".[train]"')

from defocus.engine.errors import InputError  # noqa: E402
from defocus.training.evaluation import figure, paper, scores, suite, tables  # noqa: E402
from defocus.training.evaluation.cost import gflop, parameters, time_ratios  # noqa: E402
from defocus.training.evaluation.figure import comparison, scatter  # noqa: E402
from defocus.training.evaluation.methods import Method, available, classical  # noqa: E402
from defocus.training.evaluation.report import report  # noqa: E402
from defocus.training.networks.coarse_to_fine import CoarseToFine  # noqa: E402

DATA = "drawn"


@pytest.fixture(scope="module")
def small() -> suite.Suite:
    return suite.make("small", suite.make_cases(suite.drawn_fields(2), (0, 10, 22), (96, 112)))


@pytest.fixture(scope="module")
def methods() -> list[Method]:
    def smooth(case: suite.Case) -> np.ndarray:
        return gaussian_filter(case.seen.astype(np.float32), (0, 0.7, 0.7))

    def perfect(case: suite.Case) -> np.ndarray:
        return case.sharp + np.float32(0.25)

    return [
        Method("smooth", "Smooth & simple", smooth),
        Method("residual-4", "ours", perfect, CoarseToFine(4), note="a note"),
        classical("rl", "Richardson-Lucy, true PSF", 1.0),
    ]


@pytest.fixture(scope="module")
def rows(small, methods) -> list[scores.Score]:
    return list(scores.evaluate(small, methods))


def test_every_method_is_scored_on_every_plane(small, methods, rows):
    assert len(rows) == len(small.cases) * (1 + len(methods))
    assert scores.methods_in(rows) == ("input", "smooth", "residual-4", "rl")
    best = scores.mean_by_distance(rows, "residual-4", "psnr")
    before = scores.mean_by_distance(rows, "input", "psnr")
    assert list(best) == [0, 10, 22]
    assert all(best[z] > before[z] + 20 for z in (10, 22))
    assert scores.mean_by_distance(rows, "rl", "psnr")[10] > before[10] + 1


def test_scores_survive_their_file(rows, tmp_path):
    scores.save(rows, tmp_path / "scores.csv")
    loaded = scores.load(tmp_path / "scores.csv")
    assert [(row.method, row.field, row.z_um) for row in loaded] == [(row.method, row.field, row.z_um) for row in rows]
    np.testing.assert_allclose([row.psnr for row in loaded], [row.psnr for row in rows], atol=1e-4)
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="cannot be read as scores"):
        scores.load(tmp_path / "scores.csv")


def test_table_1_has_our_counts_beside_the_papers(rows):
    table = tables.table_1(rows, {"residual-4": parameters(CoarseToFine(4))}, DATA)
    assert table.header == ("levels, mode", "parameters (paper's)", "22 um", "10 um", "0 um")
    (row,) = table.rows
    assert row[:2] == ("N = 4, residual", "2,568,724 (2,569,512)")
    assert row[2].endswith("(36.35)")
    assert "misprints" in table.markdown()


@pytest.mark.parametrize(("metric", "name", "papers"), [("psnr", "table2", "35.40"), ("ssim", "table3", "0.895")])
def test_tables_2_and_3_in_three_formats(rows, methods, metric, name, papers):
    table = tables.table_of(rows, metric, methods, {"smooth": "no steps"}, DATA)
    assert table.name == name
    assert [row[0] for row in table.rows] == ["input", "Smooth & simple", "ours", "Richardson-Lucy, true PSF (o)"]
    assert papers in table.rows[0][2]
    assert table.rows[1][-1] == "no steps"
    lines = table.markdown().splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert list(csv.reader(io.StringIO(table.csv())))[1:] == [list(row) for row in table.rows]
    latex = table.latex()
    assert r"Smooth \& simple" in latex
    assert latex.count(r"\\") == len(table.rows) + 1
    assert "ours: a note" in latex
    assert tables.START in table.notes
    others = [row for row in rows if row.method != "residual-4"]
    assert tables.START not in tables.table_of(others, metric, methods, {}, DATA).notes


def test_the_papers_figures_are_complete():
    """Each row has the five distances of the paper; the input gets better as the distance shrinks."""
    for reported in (paper.PSNR, paper.SSIM):
        assert all(len(row) == len(paper.DISTANCES_UM) for row in reported.values())
        assert list(reported["input"]) == sorted(reported["input"])
    assert paper.row_of("mrn") == "na"
    assert paper.row_of("residual-2") == "residual-2"


def test_cost_counts_two_operations_a_multiplication():
    convolution = torch.nn.Conv2d(1, 8, 3, padding=1)
    assert gflop(convolution, (100, 200)) == pytest.approx(2 * 9 * 8 * 100 * 200 / 1e9)
    assert next(convolution.parameters()).device.type == "cpu"  # the network itself stays as it is
    # 42.4 GFLOP at two channels and 704 x 528 (shared reference: network.md).
    assert gflop(CoarseToFine(4, channels=2), (528, 704), channels=2) == pytest.approx(42.4, rel=0.02)


def test_time_is_relative_to_the_first():
    light, heavy = torch.nn.Conv2d(1, 2, 3), torch.nn.Sequential(torch.nn.Conv2d(1, 64, 7), torch.nn.Conv2d(64, 64, 7))
    first, second = time_ratios([(light, 1), (heavy, 1)], (128, 128))
    assert first == 1.0
    assert second > 3


def test_figures_are_drawn(small, methods, rows, tmp_path):
    files = [*comparison(small, "drawn_1", methods, tmp_path, side=64), *scatter(rows, tmp_path)]
    assert [path.name for path in files] == ["figure_drawn_1.png", "figure_drawn_1.pdf", "scatter.png", "scatter.pdf"]
    assert all(path.stat().st_size > 5000 for path in files)


def test_the_figure_has_the_chosen_methods_at_two_distances(small, methods, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figure, "_save", lambda made, out, name: drawn.append(made))
    comparison(small, "drawn_1", methods, tmp_path, side=64)
    axes = drawn[0].axes
    titles = [axis.get_title().partition("\n")[0] for axis in axes[:4]]
    assert titles == ["input", "ours", "Richardson-Lucy,", "truth"]  # not "smooth"
    assert len(axes) == 2 * 4 * 4  # two distances: image, zoom, error, profile
    assert [axis.get_ylabel() for axis in axes[::16]] == ["10 um", "22 um"]
    assert "20 um" in [text.get_text() for text in axes[0].texts]


def test_the_report_is_one_folder(small, methods, tmp_path):
    lines: list[str] = []
    report(small, methods, tmp_path, {}, "defocus-evaluate", [(small, "drawn_2")], lines.append)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"methods.md", "scores.csv", "table1.csv", "table2.tex", "table3.csv", "cost.csv", "scatter.pdf"} <= names
    text = (tmp_path / "methods.md").read_text()
    assert small.checksum in text
    assert "figure_drawn_2.png" in text
    assert text.count("## ") == 4


def test_classical_methods_need_no_weights(tmp_path, small):
    found: Iterator[Method] = available(tmp_path)
    assert [method.name for method in found] == ["wiener", "rl", "rl-half", "rl-twice", "default"]
    in_focus = next(case for case in small.cases if case.z_um == 0)
    for method in available(tmp_path, ["wiener", "rl"]):
        np.testing.assert_array_equal(method.restore(in_focus), in_focus.seen)
