"""What the tests of the status page in a browser share: a daemon with two microscopes, and what is looked at.

DEFOCUS_SCREENSHOTS=FOLDER keeps the pictures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from ...helpers.waiting import wait_for
from ..conftest import free_port
from .test_status import listens

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
expect = playwright.expect
QUICK = ("--settle", "0.1", "--rescan", "0.3", "--patience", "0.3", "--min-free-mb", "0")
DRIFT_PX = 6.0
PATIENCE = 300_000  # ms


def accessible(page, axe: str) -> None:
    """Nothing that axe-core calls serious, and the keyboard gets everywhere."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    serious = [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical", "moderate")
    ]
    assert serious == []
    names = page.locator("button:visible").evaluate_all(
        "nodes => nodes.map(node => node.getAttribute('aria-label') || node.textContent)"
    )
    assert len(names) == len(set(names))  # a name of its own each
    reached = set()
    for _ in range(200):  # once around, wherever it began
        page.keyboard.press("Tab")
        where = page.evaluate("path(document.activeElement)")
        if where in reached:
            break
        if where:
            reached.add(where)
    controls = page.locator("button:visible, select:visible, input:visible").count()
    assert len(reached) == controls


def drawn(path: Path, z_um: float, seed: int) -> None:
    """A drawn specimen out of focus, as the camera writes it."""
    from defocus.training.data.fields import Field
    from defocus.training.evaluation.heldout import counts_pair
    from defocus.training.physics.specimen import draw_cells, draw_filaments

    rng = np.random.default_rng(seed)
    shape = (384, 512)
    sharp = draw_cells(shape, rng, 24, 13.0) + 0.3 * draw_filaments(shape, rng, 12)
    field = Field(Path(path.name), np.rint(1000 * sharp).astype(np.float32))
    part = path.with_suffix(".part")
    tifffile.imwrite(part, counts_pair(field, z_um)[0])
    part.rename(path)


def keep(page, name: str) -> None:
    if folder := os.environ.get("DEFOCUS_SCREENSHOTS"):
        path = Path(folder) / f"{name}.png"
        if hasattr(page, "mouse"):  # no frame around what the keyboard has reached, nothing under a pointer
            page.evaluate("document.activeElement.blur()")
            page.mouse.move(0, 0)
        page.screenshot(path=path)  # of the page where it is scrolled to, or of a part of it
        assert path.stat().st_size < 200_000


class Lab:
    """A daemon with two microscopes and a page, its folder and its port."""

    def __init__(self, folder: Path, model: Path | str, *arguments: str) -> None:
        self.folder, self.port = folder, free_port()
        self.raw = [folder / "widefield" / "raw", folder / "spinning disk"]
        lines = ['backend = "cpu"', f"drift_px = {DRIFT_PX}"]
        optics = 'name = "Widefield 20x"\nna = 0.5\npixel_size_um = 0.65'
        for number, (raw, more) in enumerate(zip(self.raw, (optics, ""), strict=True), 1):
            raw.mkdir(parents=True)
            lines += ["[[folders]]", f"acquisition = '{raw}'", f"output = '{raw.parent / f'corrected{number}'}'", more]
        (folder / "defocus.toml").write_text("\n".join(lines))
        self._line = [sys.executable, "-m", "defocus.watcher.cli", "--config", str(folder / "defocus.toml"), *QUICK]
        self._line += ["--model", str(model), "--status", str(self.port), *arguments]

    def __enter__(self) -> Lab:
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(self._line, stdout=log, stderr=subprocess.STDOUT)
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def page(self, browser, **how):
        """The page in a browser; what goes wrong in it is in `page.errors`."""
        page = browser.new_page(viewport={"width": 1000, "height": 900}, **how)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("dialog", lambda dialog: (page.errors.append(dialog.message), dialog.dismiss()))
        page.on(
            "console",
            lambda line: (
                page.errors.append(line.text) if line.type == "error" and "ERR_CONNECTION" not in line.text else None
            ),
        )
        page.add_init_script(
            "window.path = node => node === document.body ? '' : path(node.parentNode) + '/' +"
            "[...node.parentNode.children].indexOf(node)"
        )
        wait_for(lambda: listens(self.port))
        page.goto(f"http://127.0.0.1:{self.port}/")
        return page
