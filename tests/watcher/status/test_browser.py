"""The status page in a real browser: Debian's Chromium, headless. Its pictures are those of docs/guides/status.md.

DEFOCUS_SCREENSHOTS=FOLDER keeps the pictures.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from defocus.engine.model.card import model_path

from ..conftest import Watching, free_port, wait_for, write_tiff
from ..test_faults import faults, shim  # noqa: F401  fixtures
from .test_status import EVIL, listens

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = playwright.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
QUICK = ("--settle", "0.1", "--rescan", "0.3", "--patience", "0.3", "--min-free-mb", "0")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def drawn(path: Path, z_um: float, seed: int) -> None:
    """A drawn specimen out of focus, as the camera writes it."""
    from defocus.training.data.fields import Field
    from defocus.training.evaluation.heldout import counts_pair
    from defocus.training.physics.specimen import draw_cells, draw_filaments

    rng = np.random.default_rng(seed)
    shape = (384, 512)
    sharp = draw_cells(shape, rng, 24, 13.0) + 0.3 * draw_filaments(shape, rng, 12)
    field = Field(Path(path.name), np.rint(1000 * sharp).astype(np.float32))
    tifffile.imwrite(path, counts_pair(field, z_um)[0])


def keep(page, name: str) -> None:
    if folder := os.environ.get("DEFOCUS_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture
def lab():
    """A folder whose path may be seen in a picture."""
    with tempfile.TemporaryDirectory(prefix="microscope-") as folder:
        yield Path(folder)


def test_the_page_lives(browser, lab):
    acquisition, out = lab / "acquisition", lab / "corrected"
    acquisition.mkdir()
    port = free_port()
    watching = Watching(acquisition, out, model_path(), lab / "log", *QUICK, "--status", str(port))
    try:
        watching.ready()
        page = browser.new_page(viewport={"width": 900, "height": 1000})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.locator("#state")).to_have_text("watching", timeout=30_000)
        assert page.locator("#nothing").is_visible()
        keep(page, "idle")

        (lab / "drawn").mkdir()
        for number in range(12):  # drift: each is further out of focus
            drawn(lab / "drawn" / f"t{number:02d}.tif", 2.0 * number, number)
        for path in sorted((lab / "drawn").iterdir()):
            path.rename(acquisition / path.name)
        expect(page.locator("#state")).to_have_text("busy", timeout=30_000)
        page.wait_for_selector("#stage:not([hidden])", timeout=30_000)  # it came without a reload
        keep(page, "busy")
        expect(page.locator("#name")).to_have_text("t11.tif", timeout=60_000)
        wait_for(lambda: page.locator("#after").evaluate("node => node.naturalWidth") == 512)

        before = page.locator("#before")
        assert before.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 50% 0px 0px)"
        page.locator("#slider").fill("20")
        assert before.evaluate("node => getComputedStyle(node).clipPath") == "inset(0px 80% 0px 0px)"
        points = page.locator("#plot polyline").get_attribute("points") or ""
        assert len(points.split()) == 12
        heights = [float(point.split(",")[1]) for point in points.split()]
        assert heights[-1] < heights[1]  # upwards is more blur

        (acquisition / EVIL).write_bytes(b"not a TIFF")
        (acquisition / "short.tif").write_bytes((acquisition / "t00.tif").read_bytes()[:5000])
        expect(page.locator("#failures button")).to_have_count(2, timeout=30_000)
        shown = page.locator("#failures").inner_text()
        assert EVIL in shown  # as text, not as an image
        assert "not a TIFF" in shown
        assert "truncated" in shown
        assert page.locator("#failures img").count() == 0
        acquisition.rename(lab / "away")
        expect(page.locator("#state")).to_have_text("in trouble", timeout=30_000)
        page.locator("#slider").fill("50")
        keep(page, "trouble")
        (lab / "away").rename(acquisition)
        expect(page.locator("#state")).to_have_text("watching", timeout=30_000)

        (acquisition / "short.tif").write_bytes((acquisition / "t00.tif").read_bytes())
        wait_for(lambda: (out / "short.tif").exists(), 30)
        page.locator("#failures button").first.click()
        expect(page.locator("#failures button").first).to_have_text("will be tried")

        page.set_viewport_size({"width": 375, "height": 700})  # a phone
        assert page.evaluate("document.documentElement.scrollWidth <= 375")
        assert not errors
        watching.stop()
        expect(page.locator("#state")).to_have_text("the daemon does not answer", timeout=30_000)
    finally:
        watching.kill()


def test_the_retry_button_has_a_file_corrected(browser, folders, start):
    """Set aside for something that is mended without the file itself being written again."""
    acquisition, out = folders
    port = free_port()
    start(*QUICK, "--status", str(port)).ready()
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    (out / "a.tif").write_bytes(b"somebody else's")
    write_tiff(acquisition / "a.tif")
    expect(page.locator("#failures")).to_contain_text("is there already", timeout=30_000)
    (out / "a.tif").unlink()
    page.locator("#failures button").click()
    expect(page.locator("#failures button")).to_have_count(0, timeout=30_000)
    expect(page.locator("#name")).to_have_text("a.tif", timeout=30_000)
    assert tifffile.imread(out / "a.tif").shape == (64, 64)
    page.close()


def test_the_page_answers_while_the_model_is_loaded(browser, folders, start, faults, tiny_model):  # noqa: F811
    """The disk of the model is slow, 5 s: whoever looks sees that it starts. It took under 2 s of processor time."""
    port = free_port()
    faults.begin(("open", 0, str(tiny_model)), seconds=5.0)
    watching = start(*QUICK, "--status", str(port), environment=faults.environment)
    wait_for(lambda: listens(port), 60)
    took = psutil.Process(watching.process.pid).cpu_times()
    assert took.user + took.system < 2.0
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    expect(page.locator("#state")).to_have_text("starting: the model is being loaded")
    assert "watching " not in watching.said()
    faults.end()
    expect(page.locator("#state")).to_have_text("watching", timeout=30_000)
    page.close()
