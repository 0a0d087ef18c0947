"""The napari plugin in a real viewer, with napari's fixtures, on a screen of its own (Xvfb: napari needs OpenGL)."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import tifffile

pytest.importorskip("napari", reason='needs napari: pip install ".[napari]"')
pytest.importorskip("qtpy.QtWidgets", reason="needs Qt: pip install PySide6-Essentials", exc_type=ImportError)

from napari.utils._testsupport import _clean_themes, _disable_qt_warnings  # noqa: F401  tests/conftest.py has none

from defocus import Engine, read_provenance
from defocus.engine.cli.run import main as run_main
from defocus.napari.reader import get_reader
from defocus.napari.widget import SHOWN, RestoreWidget
from defocus.training.evaluation.heldout import CAMERA, OPTICS
from defocus.training.physics.optics import defocus
from defocus.training.physics.specimen import draw_cells

from .helpers.microscope_formats import stack, write_lif, write_ome_zarr


@pytest.fixture(scope="session")
def screen() -> None:
    """A screen for this process, until it ends: Qt's connection to it cannot be closed before."""
    if shutil.which("Xvfb") is None:
        pytest.skip("needs Xvfb: apt-get install xvfb libgl1-mesa-dri libxcb-cursor0")
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1024x768x24", "-nolisten", "tcp", "-terminate"]
    subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL, start_new_session=True)
    os.close(writing)
    with open(reading) as number:
        os.environ["DISPLAY"] = f":{number.readline().strip()}"
    os.environ["QT_QPA_PLATFORM"] = "xcb"


@pytest.fixture(scope="module")
def planes() -> np.ndarray:
    """A drawn field, in focus and 16 um out of it, twice: uint16 (2, 2, Y, X)."""
    rng = np.random.default_rng(4)
    sharp = draw_cells((160, 176), rng) * 1500
    return np.stack([[CAMERA.expose(defocus(sharp, OPTICS, z), rng) for z in (0, 16)] for _ in range(2)])


@pytest.fixture(scope="module")
def engine():
    with Engine.load(backend="cpu") as engine:
        yield engine


@pytest.fixture
def widget(screen, make_napari_viewer, engine) -> Any:
    viewer = make_napari_viewer()
    widget = RestoreWidget(viewer)
    widget._engine = engine  # one for all tests
    viewer.window.add_dock_widget(widget)
    return widget


def done(widget: RestoreWidget, qtbot: Any) -> None:
    qtbot.waitUntil(lambda: widget._start.enabled, timeout=300_000)


def test_all_planes_of_a_stack_become_a_layer_beside_it(widget, planes, engine, qtbot):
    layer = widget._viewer.add_image(
        planes, name="cells", scale=(1, 2, 0.65, 0.65), translate=(0, 0, 5, 7), colormap="magma"
    )
    before = planes.copy()
    widget.restore()
    assert not widget._start.enabled
    done(widget, qtbot)
    result = widget._viewer.layers["cells corrected"]
    np.testing.assert_array_equal(planes, before)
    assert result.data.shape == planes.shape
    assert result.data.dtype == planes.dtype
    for number in range(2):
        np.testing.assert_array_equal(result.data[number, 0], planes[number, 0])  # in focus: kept
        np.testing.assert_array_equal(result.data[number, 1], engine(planes[number, 1]))
    np.testing.assert_array_equal(result.scale, layer.scale)
    np.testing.assert_array_equal(result.translate, layer.translate)
    assert (result.colormap.name, result.contrast_limits) == (layer.colormap.name, layer.contrast_limits)
    table = result.metadata["defocus"]
    assert [row["plane"] for row in table] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [row["copied"] for row in table] == [True, False, True, False]
    assert table[1]["blur_px"] > 3
    assert widget._text.value.startswith("2 of 4 planes restored")
    assert widget._progress.value == 4


def test_the_plane_shown_and_sharp_planes_on_request(widget, planes, engine, qtbot):
    widget._viewer.add_image(planes, name="cells")
    widget._viewer.dims.set_current_step((0, 1), (1, 0))
    widget._planes.value, widget._sharp_too.value = SHOWN, True
    widget.restore()
    done(widget, qtbot)
    result = widget._viewer.layers["cells corrected"]
    assert result.data.shape == planes.shape[2:]
    np.testing.assert_array_equal(result.data, engine(planes[1, 0]))
    assert widget._text.value.startswith("restored: sharp, blur")


def test_colours(widget, planes, engine, qtbot):
    colours = (np.moveaxis(planes[0, [1, 1, 1]], 0, -1) // 16).astype(np.uint8)
    widget._viewer.add_image(colours, name="rgb", rgb=True)
    widget.restore()
    done(widget, qtbot)
    result = widget._viewer.layers["rgb corrected"]
    assert result.rgb
    np.testing.assert_array_equal(result.data, engine(colours, "YXS"))
    assert [row["channel"] for row in result.metadata["defocus"]] == [0, 1, 2]


def test_the_selected_layer_is_the_one_that_is_restored(widget, planes, engine, qtbot):
    first = widget._viewer.add_image(planes[0, 0], name="first")
    second = widget._viewer.add_image(planes[0, 1], name="second")
    assert widget._layer.value is second  # napari selects what is new
    widget._viewer.layers.selection.active = first
    assert widget._layer.value is first
    widget._viewer.layers.selection.active = widget._viewer.add_labels(np.zeros((160, 176), int))
    assert widget._layer.value is first
    widget._viewer.layers.selection.active = second
    widget.restore()
    done(widget, qtbot)
    assert widget._viewer.layers[-1].name == "second corrected"
    assert widget._layer.value is second


def test_a_layer_that_is_selected_before_the_widget_opens_is_chosen(screen, make_napari_viewer, planes):
    viewer = make_napari_viewer()
    first, second = (viewer.add_image(plane) for plane in planes[0])
    viewer.layers.selection.active = second
    _, widget = viewer.window.add_plugin_dock_widget("defocus", "Restore focus")
    assert widget._layer.value is second
    viewer.layers.remove(second)
    assert widget._layer.value is first


def test_cancel_adds_nothing(widget, planes, qtbot):
    widget._viewer.add_image(np.repeat(planes, 20, axis=0), name="long")
    widget.restore()
    with qtbot.waitSignal(widget.worker.yielded, timeout=300_000):
        pass
    widget.cancel()
    done(widget, qtbot)
    assert len(widget._viewer.layers) == 1


def test_what_cannot_be_restored_is_a_line_in_the_widget(widget, planes, qtbot):
    widget.restore()
    assert "open an image first" in widget._text.value
    widget._viewer.add_image([planes[0, 1], planes[0, 1, ::2, ::2]], name="pyramid")
    widget.restore()
    assert "several resolutions" in widget._text.value
    widget._viewer.layers.clear()
    widget._viewer.add_image(np.full((40, 40), np.nan, np.float32), name="bad", contrast_limits=(0, 1))
    widget.restore()
    done(widget, qtbot)
    assert "NaN" in widget._text.value
    assert len(widget._viewer.layers) == 1


def test_an_output_opens_with_its_provenance(screen, make_napari_viewer, planes, tmp_path, monkeypatch):
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, planes[0], imagej=True, metadata={"axes": "ZYX"})
    assert get_reader(str(path)) is None
    assert get_reader(str(tmp_path / "absent.tif")) is None
    monkeypatch.setattr("sys.argv", ["defocus-run", str(path), "-o", str(tmp_path / "out"), "--backend", "cpu"])
    with pytest.raises(SystemExit) as end:
        run_main()
    assert end.value.code == 0
    viewer = make_napari_viewer()
    (layer,) = viewer.open(tmp_path / "out" / "cells.tif", plugin="defocus")
    np.testing.assert_array_equal(layer.data, tifffile.imread(tmp_path / "out" / "cells.tif"))
    assert [plane["copied"] for plane in layer.metadata["defocus"]["planes"]] == [True, False]


@pytest.mark.parametrize("name", ["positions.lif", "cells.zarr"])
def test_outputs_of_other_formats_open_with_their_provenance(
    name, screen, make_napari_viewer, tmp_path, tiny_model, monkeypatch
):
    pytest.importorskip("bioio_lif", reason='needs pip install ".[formats]"')
    path = tmp_path / name
    if path.suffix == ".lif":
        write_lif(path, {"one": stack(1, 2, 3, 64, 80), "two": stack(1, 1, 3, 48, 64)})
        output = tmp_path / "out" / f"{name}.ome.tif"
        expected = [(3, 64, 80), (3, 64, 80), (3, 48, 64)]  # two channels of one position, then the other
    else:
        write_ome_zarr(path, stack(1, 2, 3, 64, 64))
        output = tmp_path / "out" / name
        expected = [(1, 3, 64, 64)] * 2
    line = ["defocus-run", str(path), "-o", str(tmp_path / "out"), "--model", str(tiny_model), "--backend", "cpu"]
    monkeypatch.setattr("sys.argv", line)
    with pytest.raises(SystemExit) as end:
        run_main()
    assert end.value.code == 0
    viewer = make_napari_viewer()
    layers = viewer.open(output, plugin="defocus")
    assert [tuple(layer.data[0].shape if layer.multiscale else layer.data.shape) for layer in layers] == expected
    assert all(layer.multiscale == (path.suffix == ".zarr") for layer in layers)
    for layer in layers:
        assert layer.metadata["defocus"]["source"]["name"] == name
        assert layer.metadata["defocus"] == read_provenance(str(output))
    if path.suffix == ".zarr":
        import zarr

        np.testing.assert_array_equal(layers[1].data[0], zarr.open_array(output / "0", mode="r")[:, 1])
