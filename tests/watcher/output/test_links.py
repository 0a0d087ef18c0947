"""Links in circles, planted in the output folder: their own files fail, the daemon and the others go on."""

from __future__ import annotations

from ...helpers.waiting import wait_for
from ..conftest import QUICK, outputs, states, write_tiff


def test_links_in_circles_stop_nothing(folders, start):
    acquisition, out = folders
    (out / "deep").mkdir(parents=True)
    (out / "plate").symlink_to("plate")
    (out / "deep" / "well").symlink_to("../deep/well")
    (out / "a.tif").symlink_to("a.tif")
    for name in ("plate/a.tif", "deep/well/site/a.tif", "a.tif", "b.tif"):
        (acquisition / name).parent.mkdir(parents=True, exist_ok=True)
        write_tiff(acquisition / name)
    (acquisition / "circle").symlink_to("circle")
    (acquisition / "circle.tif").symlink_to("circle.tif")
    watching = start(*QUICK, "--retries", "1")
    bad = ("plate/a.tif", "deep/well/site/a.tif", "a.tif")
    wait_for(lambda: states(out) == dict.fromkeys(bad, "quarantined") | {"b.tif": "done"})
    write_tiff(acquisition / "c.tif")
    wait_for(lambda: states(out).get("c.tif") == "done")
    assert watching.stop() == 0
    assert outputs(out) == ["b.tif", "c.tif"]
    assert "unexpected" not in watching.said()
    assert watching.said().count("a file is in the place of a folder") >= 2
