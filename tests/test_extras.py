"""Each extra by itself, in an environment that pip makes from the built wheel: the example of its guide runs."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from .helpers.microscope_formats import stack, write_dv, write_nd2

pytestmark = pytest.mark.slow  # minutes each, and pip needs a network
ROOT = Path(__file__).resolve().parent.parent
READ = """
import sys, npe2
npe2.PluginManager.instance().discover()
(layer,) = npe2.read(sys.argv[1:], stack=False, plugin_name="defocus")
print(layer[1]["metadata"]["defocus"]["model"])
"""
ACQUIRE = """
import numpy as np, useq, defocus
from pymmcore_plus.experimental.unicore import SimpleCameraDevice, UniMMCore
from defocus.acquisition import connect

class Camera(SimpleCameraDevice):
    get_exposure = lambda self: 10.0
    set_exposure = lambda self, exposure: None
    sensor_shape = lambda self: (128, 160)
    dtype = lambda self: np.uint16

    def snap(self, buffer):
        buffer[:] = np.random.default_rng(0).poisson(500, (128, 160))
        return {}

core = UniMMCore()
core.loadPyDevice("Camera", Camera())
core.initializeDevice("Camera")
core.setCameraDevice("Camera")
core.setAutoShutter(False)
with defocus.Engine.load() as engine, connect(core, engine, on_frame=lambda frame: print(frame.report.verdict)) as seen:
    core.mda.run([useq.MDAEvent(index={"t": 0})])
    seen.wait()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run(line, check=True)
    (built,) = folder.glob("*.whl")
    return built


class Installed:
    """An environment with the wheel and some extras."""

    def __init__(self, folder: Path, wheel: Path, extras: str, *others: str) -> None:
        self._folder, self._bin = folder, folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        venv.create(folder / "env", with_pip=True)
        line = [self._bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*line, f"{wheel}[{extras}]", *others], check=True)

    def run(self, program: str, *arguments: object) -> str:
        """What a program of it prints; it must end well."""
        line = [str(self._bin / program), *map(str, arguments)]
        done = subprocess.run(line, cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def raw(tmp_path) -> Path:
    (tmp_path / "raw").mkdir()
    tifffile.imwrite(tmp_path / "raw" / "a.tif", stack(128, 160))
    return tmp_path / "raw"


def test_cpu(wheel, tmp_path, raw):
    installed = Installed(tmp_path, wheel, "cpu")
    installed.run("defocus-run", raw, "-o", tmp_path / "out")
    assert tifffile.imread(tmp_path / "out" / "a.tif").shape == (128, 160)


def test_formats(wheel, tmp_path, raw):
    write_nd2(raw / "b.nd2", stack(2, 2, 64, 80))
    write_dv(raw / "c.dv", stack(1, 1, 2, 64, 80))
    installed = Installed(tmp_path, wheel, "cpu,formats")
    installed.run("defocus-run", raw, "-o", tmp_path / "out")
    assert tifffile.imread(tmp_path / "out" / "b.nd2.ome.tif").shape == (2, 2, 64, 80)
    assert tifffile.imread(tmp_path / "out" / "c.dv.ome.tif").shape == (2, 64, 80)


def test_pictures_with_a_reader_that_no_extra_brings(wheel, tmp_path, raw):
    grey = stack(96, 128)
    colour = np.stack([grey >> 4, grey >> 5, grey >> 6, np.full_like(grey, 255)], axis=-1).astype(np.uint8)
    (raw / "grey.png").write_bytes(imagecodecs.png_encode(grey))
    (raw / "colour.png").write_bytes(imagecodecs.png_encode(colour))
    (raw / "lossy.jpg").write_bytes(imagecodecs.jpeg_encode(np.ascontiguousarray(colour[..., :3])))
    installed = Installed(tmp_path, wheel, "cpu", "bioio-imageio")
    installed.run("defocus-run", raw, "-o", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_file()] == ["a.tif"]
    installed.run("defocus-run", raw / "*.png", raw / "*.jpg", "-o", tmp_path / "out")
    assert tifffile.imread(tmp_path / "out" / "grey.png.ome.tif").dtype == np.uint16
    for name in ("colour.png", "lossy.jpg"):
        assert tifffile.imread(tmp_path / "out" / f"{name}.ome.tif").shape == (96, 128, 3)


def test_acquisition(wheel, tmp_path):
    installed = Installed(tmp_path, wheel, "cpu,acquisition")
    assert installed.run("python", "-c", ACQUIRE).split()


def test_train_with_acquisition(wheel, tmp_path):
    """The complete example of the guide to acquisitions."""
    torch = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    installed = Installed(tmp_path, wheel, "cpu,train,acquisition", torch.split()[0])
    assert installed.run("python", ROOT / "demo" / "refocus.py").strip()


def test_openvino(wheel, tmp_path, raw):
    installed = Installed(tmp_path, wheel, "openvino")
    installed.run("defocus-run", raw, "-o", tmp_path / "out", "--backend", "openvino")
    assert tifffile.imread(tmp_path / "out" / "a.tif").shape == (128, 160)


def test_napari(wheel, tmp_path, raw):
    installed = Installed(tmp_path, wheel, "cpu,napari", "PySide6-Essentials")
    installed.run("defocus-run", raw, "-o", tmp_path / "out")
    assert installed.run("python", "-c", READ, tmp_path / "out" / "a.tif").split() == ["default"]


def test_dask(wheel, tmp_path, raw):
    installed = Installed(tmp_path, wheel, "cpu,dask")
    installed.run("defocus-run", raw, "-o", tmp_path / "out", "--dask", "local:1")
    assert (tmp_path / "out" / "a.tif").exists()


def test_bioimageio(wheel, tmp_path):
    installed = Installed(tmp_path, wheel, "cpu,bioimageio")
    installed.run("defocus-export", "default", "--bioimageio", tmp_path / "model.zip")
    assert (tmp_path / "model.zip").exists()
