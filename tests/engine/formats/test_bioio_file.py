"""ND2, CZI, LIF and DV by bioio's readers: what comes out, what is refused, and when a file is whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus import Engine
from defocus.engine.errors import ErrorCode, InputError
from defocus.engine.formats import names
from defocus.engine.formats.dispatch import check_complete, read_other
from defocus.engine.formats.names import input_path, output_path
from defocus.engine.model.card import read_card
from defocus.engine.pipeline.batch import Result, Status, find, restore
from defocus.engine.tiff.integrity import check_complete as check_tiff
from defocus.engine.tiff.read import read_provenance, read_tiff

from ...helpers.microscope_formats import stack, write_czi, write_dv, write_lif, write_nd2

LIF = {"one": stack(2, 2, 3, 64, 80), "two": stack(1, 2, 1, 48, 64, seed=1)}
ND2, CZI, DV = stack(3, 2, 64, 80), stack(2, 2, 3, 64, 80), stack(2, 2, 3, 64, 80)
AXES = {".nd2": ["TCYX"], ".czi": ["TCZYX"], ".lif": ["TCZYX", "CYX"], ".dv": ["CTZYX"], ".r3d": ["CTZYX"]}


@pytest.fixture(params=["nd2", "czi", "lif", "dv", "r3d"])
def file(request, tmp_path) -> tuple[Path, list[np.ndarray]]:
    """A file of each format with the stacks in it."""
    pytest.importorskip(f"bioio_{request.param.replace('r3d', 'dv')}", reason='needs pip install ".[formats]"')
    path = tmp_path / "acq" / f"a µ.{request.param}"
    path.parent.mkdir()
    if request.param == "nd2":
        write_nd2(path, ND2)
        return path, [ND2]
    if request.param == "czi":
        write_czi(path, [CZI])
        return path, [CZI]
    if request.param in ("dv", "r3d"):
        write_dv(path, DV, "<" if request.param == "dv" else ">")
        return path, [DV]
    write_lif(path, LIF)
    return path, [np.squeeze(data) for data in LIF.values()]


def run(model: Path, given: Path, out: Path, **options) -> list[Result]:
    return list(
        restore(
            find([given], out), read_card(model), lambda: Engine.load(model, backend="cpu"), keep_sharp=False, **options
        )
    )


def test_the_output_is_an_ome_tiff_with_other_pixels(file, tmp_path, tiny_model):
    path, stacks = file
    (result,) = run(tiny_model, path.parent, tmp_path / "out")
    assert result.error is None
    assert result.job.target == tmp_path / "out" / f"{path.name}.ome.tif"
    assert result.job.target.stat().st_mode == path.stat().st_mode
    assert result.outcome is not None
    axes = AXES[path.suffix]
    assert [image.axes for image in result.outcome.images] == axes
    check_tiff(result.job.target, finished=True)
    corrected = read_tiff(result.job.target)
    assert [image.axes for image in corrected.images] == axes
    with Engine.load(tiny_model, backend="cpu") as engine:
        for image, before, letters in zip(corrected.images, stacks, axes, strict=True):
            expected = engine(before, letters)
            limit = 4095 if path.suffix == ".nd2" else 65535
            assert np.array_equal(image.data, expected.clip(0, limit))
    account = read_provenance(result.job.target)
    assert account is not None
    assert account["source"]["name"] == path.name
    assert account["model"] == read_card(tiny_model).name


def test_the_metadata_go_with_it(file, tmp_path, tiny_model):
    from ome_types import from_xml

    path, stacks = file
    (result,) = run(tiny_model, path, tmp_path / "out")
    with tifffile.TiffFile(result.job.target) as tif:
        assert len(tif.series) == len(stacks)
        ome = from_xml(tif.ome_metadata or "")
    pixels = ome.images[0].pixels
    if path.suffix not in (".dv", ".r3d"):  # which name no channel
        assert [channel.name for channel in pixels.channels] == [
            f"{'D' if path.suffix == '.lif' else 'd'}ye{n}" for n in (0, 1)
        ]
    assert pixels.physical_size_x == pytest.approx(0.25)
    assert pixels.physical_size_y == pytest.approx(0.25)
    if path.suffix == ".nd2":
        assert pixels.significant_bits == 12
        assert [plane.delta_t for plane in pixels.planes if plane.the_c == 0] == pytest.approx([0, 1, 2])
    else:
        assert pixels.physical_size_z == pytest.approx(0.5)
    if path.suffix == ".lif":
        assert [image.name for image in ome.images] == ["one", "two"]


def test_what_is_done_is_skipped_and_says_what_it_is(file, tmp_path, tiny_model):
    path, _ = file
    run(tiny_model, path, tmp_path / "out")
    (again,) = run(tiny_model, path, tmp_path / "out")
    assert again.status is Status.SKIPPED
    told = json.loads(again.to_json())
    assert told["planes"] == len(told["reports"]) > 0
    path.touch()
    assert [result.status for result in run(tiny_model, path, tmp_path / "out")] == [Status.DONE]


def test_large_files_go_through_the_disk_with_the_same_result(file, tmp_path, tiny_model):
    path, _ = file
    (small,) = run(tiny_model, path, tmp_path / "small", memory=100_000)
    (large,) = run(tiny_model, path, tmp_path / "large")
    assert small.error is large.error is None
    both = [[image.data for image in read_tiff(one.job.target).images] for one in (small, large)]
    assert all(np.array_equal(one, other) for one, other in zip(*both, strict=True))


def test_a_file_that_is_cut_short_is_not_whole(file):
    path, _ = file
    check_complete(path, finished=True)
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) * 3 // 4, len(whole) // 2, 200, 50, 5):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match="truncated or not complete") as caught:
            check_complete(path)
        assert caught.value.code is ErrorCode.TRUNCATED
    path.write_bytes(b"")
    with pytest.raises(InputError, match="an empty file"):
        check_complete(path)


def test_a_czi_that_is_being_updated_is_not_whole(tmp_path):
    pytest.importorskip("pylibCZIrw", reason='needs pip install ".[formats]"')
    path = tmp_path / "a.czi"
    write_czi(path, [CZI])
    content = bytearray(path.read_bytes())
    content[100] = 1  # UpdatePending of the file header
    path.write_bytes(content)
    with pytest.raises(InputError, match="the end of an update"):
        check_complete(path)


def test_planes_that_a_reader_passes_over_are_not_lost_in_silence(tmp_path):
    pytest.importorskip("bioio_lif", reason='needs pip install ".[formats]"')
    pytest.importorskip("bioio_czi", reason='needs pip install ".[formats]"')
    lif, czi = tmp_path / "a.lif", tmp_path / "a.czi"
    write_lif(lif, {"sweep": stack(4, 1, 1, 48, 64)})
    lif.write_bytes(lif.read_bytes().replace('DimID="4"'.encode("utf-16-le"), 'DimID="5"'.encode("utf-16-le")))
    with pytest.raises(InputError, match=r"sweep has axes that cannot be read: λ \(4\)"):
        read_other(lif)
    write_czi(czi, [CZI, CZI])  # whose names the writer leaves out of the metadata
    with pytest.raises(InputError, match="its metadata tell of 1 of its 2 scenes"):
        read_other(czi)


def test_without_the_extra_one_line_says_what_to_install(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(names, "_installed", lambda module: False)
    path = tmp_path / "acq" / "a.nd2"
    path.parent.mkdir()
    write_nd2(path, ND2)
    (result,) = run(tiny_model, path, tmp_path / "out")
    assert result.error is not None
    assert result.error.code is ErrorCode.MISSING_EXTRA
    assert str(result.error).count("\n") == 0
    assert "[formats]" in str(result.error)
    with pytest.raises(InputError, match=r"holds no TIFF, but 1 .nd2; read it with: pip install .*\[formats\]"):
        find([path.parent], tmp_path / "out")


def test_without_a_reader_that_no_extra_brings_one_line_names_it(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(names, "_installed", lambda module: not module.startswith("bioio"))
    for name, package in (("a.png", "bioio-imageio"), ("a.oib", "bioio-bioformats"), ("a.sldy", "bioio-sldy")):
        path = tmp_path / name
        path.write_bytes(b"something")
        (result,) = run(tiny_model, path, tmp_path / "out")
        assert result.error is not None
        assert result.error.code is ErrorCode.MISSING_EXTRA
        assert str(result.error).endswith(f"; install it with: pip install {package}")
    with pytest.raises(InputError, match=r"export them in .*, or install a reader: pip install bioio-"):
        find([tmp_path], tmp_path.with_name("out"))


def test_pictures_are_taken_where_they_are_named_and_not_from_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "_installed", lambda module: True)
    (tmp_path / "a.png").write_bytes(b"something")
    assert [job.target.name for job in find([str(tmp_path / "*.png")], tmp_path.with_name("out"))] == ["a.png.ome.tif"]
    with pytest.raises(InputError, match=r"1 \.png; export it .*, or name it \(\*\.png\) and install a reader"):
        find([tmp_path], tmp_path.with_name("out"))


def test_formats_that_are_not_read_say_how_to_export_them(tmp_path):
    (tmp_path / "acq").mkdir()
    shutil.copy(__file__, tmp_path / "acq" / "a.svs")
    with pytest.raises(InputError, match=r"1 \.svs; export it in Aperio ImageScope: Save As > TIFF, or use bfconvert"):
        find([tmp_path / "acq"], tmp_path / "out")


def test_names_of_outputs_lead_back_to_their_inputs():
    for name, output in (
        ("a.nd2", "a.nd2.ome.tif"),
        ("a.CZI", "a.CZI.ome.tif"),
        ("a.ome.tif", "a.ome.tif"),
        ("a.zarr", "a.zarr"),
        (".ome.tif", ".ome.tif"),
    ):
        assert output_path(Path("b", name)) == Path("b", output)
        assert input_path(Path("b", output)) == Path("b", name)
