"""The wheel: built from the tree, installed into an empty environment with [cpu], it corrects a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from defocus import __version__

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of what git tracks, in a folder named as the package: nothing that lies about can slip in."""
    folder = tmp_path_factory.mktemp("clone") / "defocus"
    line = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("docs/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def build(source: Path, folder: Path) -> Path:
    """The wheel that `pip install .` would install."""
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(line, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    return build(source, tmp_path_factory.mktemp("wheel"))


def test_a_module_that_was_renamed_between_two_builds_is_not_shipped(source, wheel, tmp_path):
    module = source / "engine" / "image" / "tiling.py"
    renamed = module.rename(module.with_name("after.py"))
    try:
        second = zipfile.ZipFile(build(source, tmp_path)).namelist()
    finally:
        renamed.rename(module)
    first = zipfile.ZipFile(wheel).namelist()
    assert set(first) - set(second) == {"defocus/engine/image/tiling.py"}
    assert set(second) - set(first) == {"defocus/engine/image/after.py"}


@pytest.mark.parametrize("room", ["engine", "watcher", "training", "export"])
def test_a_room_is_no_package_of_its_own(room):
    """From the top of a checkout `import engine` would load everything a second time, with other error classes."""
    done = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: {room} is a part of defocus" in done.stderr


def test_a_clone_beside_a_script_does_not_hide_the_installed_package(source):
    script = source.with_name("script.py")
    script.write_text("import defocus; print(defocus.deblur.__module__, defocus.__file__)")
    done = subprocess.run([sys.executable, script], cwd=source.parent, capture_output=True, text=True)
    module, file = done.stdout.strip().split(" ", 1)
    assert module == "defocus.engine.api", done.stderr
    assert not Path(file).is_relative_to(source)


def test_the_wheel_holds_the_rooms_and_the_model(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        scripts = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    modules = {
        f"defocus/{path.relative_to(ROOT).as_posix()}"
        for room in ("engine", "watcher", "training", "export")
        for path in (ROOT / room).rglob("*.py")
    }
    assert modules <= names
    assert {"defocus/__init__.py", "defocus/engine/_version.py"} <= names
    assert {"defocus/engine/model/default.onnx", "defocus/engine/model/default_fp16.onnx"} <= names
    assert {"defocus/engine/inference/gpu/uint16.cu", "defocus/engine/inference/gpu/uint16.ptx"} <= names
    assert {"defocus/training/fit/recipes/default.toml", "defocus/training/fit/recipes/paper.toml"} <= names
    tops = {"/".join(name.split("/")[:2]) for name in names if "/" in name and "dist-info" not in name}
    rooms = {f"defocus/{name}" for name in ("engine", "watcher", "training", "export", "__init__.py", "py.typed")}
    rooms |= {f"defocus/{name}" for name in ("__main__.py", "acquisition.py", "napari")}
    assert tops <= rooms  # no tests, no benchmarks, nothing beside the package
    for extra in ("cpu", "gpu", "tensorrt", "rtx", "train", "test", "dev"):
        assert f"Provides-Extra: {extra}\n" in metadata
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert not [line for line in base if "onnxruntime" in line or "torch" in line]
    for command in ("defocus =", "defocus-watch", "defocus-run", "defocus-export", "defocus-train"):
        assert command in scripts


def test_the_conda_recipe_says_what_the_package_says():
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install pyyaml")
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {*project["dependencies"], next(one for one in project["optional-dependencies"]["cpu"] if "onnx" in one)}
    listed = recipe["requirements"]["run"]
    assert {one.replace(" ", "") for one in listed if not one.startswith("python ")} == needed
    assert recipe["context"]["version"] == __version__
    assert f">={recipe['context']['python_min']}" == project["requires-python"]
    scripts = dict(line.split(" = ") for line in recipe["build"]["python"]["entry_points"])
    assert scripts == project["scripts"]


def test_rattler_build_takes_the_conda_recipe():
    rattler_build = pytest.importorskip("rattler_build", reason="needs rattler-build: pip install py-rattler-build")
    recipe = rattler_build.Stage0Recipe.from_file(ROOT / "conda" / "recipe.yaml")
    (variant,) = recipe.render(rattler_build.VariantConfig())
    assert (variant.recipe.package.name, variant.recipe.package.version) == ("defocus", __version__)


USER_SCRIPT = """\
import defocus
import numpy as np

image = np.zeros((2, 64, 64), np.uint16)
sharp: np.ndarray = defocus.deblur(image, axes="ZYX", model="default", backend="cpu")
reports: tuple[defocus.PlaneReport, ...]
sharp, reports = defocus.deblur(image, all_planes=True, report=True)
reveal_type(defocus.assess(image, sharp, "ZYX")[0].verdict)
reveal_type(defocus.read_provenance("a.tif"))
with defocus.Engine.load("default", backend="cpu", tile=512) as engine:
    sharp = engine(image, "ZYX")
try:
    defocus.deblur(image)
except defocus.InputError as error:
    reveal_type(error.code)
"""
WRONG = {  # each is one error of the checker
    "defocus.deblur(image, None, 'default')": "No overloads",
    "defocus.Engine.load('default', 'cpu')": "Expected 1 positional argument",
    "defocus.deblur(image, rapport=True)": "No overloads",
    "defocus.assess(image)": '"after"',
    "number: int = defocus.deblur(image)": '"int"',
}


def test_a_users_script_is_type_checked_against_the_wheel(wheel, tmp_path):
    pytest.importorskip("pyright")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site" / "defocus" / "py.typed").exists()
    (tmp_path / "script.py").write_text(USER_SCRIPT + "\n".join(WRONG) + "\n")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": ["site"], "include": ["script.py"]}))
    line = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)["generalDiagnostics"]
    told = [one["message"] for one in found if one["severity"] == "information"]
    assert [re.sub(r"^Type of .* is ", "", text).strip('"') for text in told] == [
        "str",
        "dict[str, Any] | None",
        "ErrorCode",
    ]
    first = USER_SCRIPT.count("\n")
    errors = [one for one in found if one["severity"] == "error"]
    assert [one["range"]["start"]["line"] - first for one in errors] == list(range(len(WRONG))), errors
    for one, says in zip(errors, WRONG.values(), strict=True):
        assert says in one["message"]


def test_in_an_empty_environment_it_asks_for_a_runtime_and_with_one_it_runs(wheel, tmp_path):
    home = tmp_path / "venv"
    venv.create(home)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    # Our pip serves, and what is imported is compiled then: both take seconds.
    install = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet", "--no-compile"]
    acquisition = tmp_path / "acq"
    acquisition.mkdir()
    image = np.random.default_rng(0).integers(100, 900, (70, 90), dtype=np.uint16)
    tifffile.imwrite(acquisition / "a.tif", image, compression="lzw")

    def command(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        line = [scripts / name, *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=tmp_path)

    def refused(done: subprocess.CompletedProcess[str], remedy: str) -> None:
        assert done.returncode == 1
        assert remedy in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1

    subprocess.run([*install, wheel], check=True, capture_output=True)
    refused(command("defocus-watch", acquisition, "--once"), f'pip install "{wheel}[cpu]"')

    subprocess.run([*install, f"{wheel}[cpu]"], check=True, capture_output=True)
    done = command("defocus-watch", acquisition, "--once", "--all-planes")
    assert done.returncode == 0, done.stderr
    corrected = tifffile.imread(tmp_path / "acq_corrected" / "a.tif")
    assert (corrected.shape, corrected.dtype) == (image.shape, image.dtype)
    assert not np.array_equal(corrected, image)
    # What was not asked for is named with its install command.
    refused(command("defocus-train", "--simulate", acquisition, "-o", "y"), f'pip install "{wheel}[train]"')
    refused(command("defocus-export", "x", "-o", "y.onnx"), f'pip install "{wheel}[train]"')
