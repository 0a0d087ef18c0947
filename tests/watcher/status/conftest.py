"""A browser, axe-core, and a folder for the tests of the status page.

axe-core, which looks at what people with a screen reader or a keyboard meet, comes from npm: DEFOCUS_AXE=axe.min.js
says where it is, if it need not be fetched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def axe(tmp_path_factory) -> str:
    """The text of axe-core."""
    if given := os.environ.get("DEFOCUS_AXE"):
        return Path(given).read_text(encoding="utf-8")
    if not (npm := shutil.which("npm")):
        pytest.skip("needs npm for axe-core: apt-get install npm")
    folder = tmp_path_factory.mktemp("npm")
    done = subprocess.run([npm, "install", "--prefix", folder, "axe-core@4"], capture_output=True, timeout=300)
    if done.returncode:
        pytest.skip("npm cannot be reached for axe-core")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def lab() -> Iterator[Path]:
    """A folder whose path may be seen in a picture."""
    with tempfile.TemporaryDirectory(prefix="microscope-") as folder:
        yield Path(folder)
