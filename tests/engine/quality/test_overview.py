"""A file in a line, from reports of this version and of those before."""

from __future__ import annotations

import json

import pytest

from defocus.engine.quality.overview import FileOverview, overview, plane_report, verdict_of
from defocus.engine.quality.report import LISTED, PlaneReport, summary

GOOD = PlaneReport(0.1, 0.2, 0.99, 0.1, 5.0)
DOUBTFUL = PlaneReport(0.1, 0.2, 0.9, 0.1, 9.0)
KEPT = PlaneReport(0.1, 0.1, 0.999, 0.01, 1.0, copied=True)
EMPTY = PlaneReport(copied=True)


@pytest.mark.parametrize(
    ("reports", "expected", "verdict"),
    [
        ([GOOD], (1, 0, 0, 5.0, 0.99), "restored"),
        ([GOOD, DOUBTFUL, KEPT], (3, 1, 1, 5.0, 0.99), "doubtful"),
        ([KEPT, EMPTY], (2, 2, 0, 1.0, 0.999), "kept"),
        ([PlaneReport()], (1, 0, 0, None, None), "no structure"),
    ],
)
def test_a_file_in_a_line(reports, expected, verdict):
    for many in (1, LISTED + 1):  # listed one by one, and summed up
        known = overview(json.loads(json.dumps(summary(reports * many))))
        assert (known.planes, known.kept, known.doubtful) == tuple(many * count for count in expected[:3])
        assert (known.blur_px, known.fidelity) == expected[3:]
        assert known.verdict == verdict
    assert known.doubt == pytest.approx(max((r.doubt for r in reports if r.doubt is not None), default=None))


def test_journals_that_were_written_before_still_read():
    plane = {"fidelity": 0.99, "worst": 0.4, "blur_px": 5.0, "focus_in": 0.1, "verdict": "explained", "copied": False}
    assert plane_report(plane).max_local_residual == 0.4
    assert verdict_of(plane) == "consistent"
    assert overview([plane]).doubt == pytest.approx(0.8)
    former = {"count": 99, "copied": 3, "worst": {"max": 0.6, "median": 0.1}, "fidelity": {"min": 0.99, "median": 1.0}}
    known = overview(former | {"verdicts": {"explained": 95, "doubtful": 1}})
    assert (known.planes, known.kept, known.doubtful, known.doubt) == (99, 3, 1, pytest.approx(1.2))


@pytest.mark.parametrize("odd", [None, 3, "x", [1, None], [{"blur_px": "wide", "copied": 7}], {}, {"count": -1}])
def test_what_is_no_report_tells_nothing(odd):
    known = overview(odd)
    assert (known.kept, known.doubtful, known.blur_px, known.doubt) == (0, 0, None, None)
    assert overview([]) == FileOverview()
