"""The engine cache: what is kept, what is rebuilt and why, and two processes at once."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from defocus.engine.errors import BackendError, OutOfMemoryError
from defocus.engine.inference.backends.tensorrt.plan_cache import PlanCache, PlanKey

KEY = PlanKey("ab" * 32, "fp16", ("tiles=1x16x16",), "rtx", "1.7.1", "Linux x86_64", "RTX 4070", "SM89", 46)


class Use:
    """A cache with a build and an accept that are counted."""

    def __init__(self, folder: Path):
        self.said: list[str] = []
        self.cache = PlanCache(folder, self.said.append)
        self.builds = 0

    def build(self):
        self.builds += 1
        return b"engine" * 100, {
            "model": "tiny",
            "seconds": 1.5,
            "precision": "62 of 62 convolutions in half precision",
        }

    def get(self, key=KEY, accept=bytes):
        return self.cache.load_or_build(key, self.build, accept)


@pytest.fixture
def use(tmp_path):
    return Use(tmp_path / "engines")


def test_an_engine_is_built_once_and_kept_with_its_account(use):
    assert use.get() == use.get() == b"engine" * 100
    assert use.builds == 1
    (entry,) = use.cache.entries()
    assert (entry.key, entry.size, entry.notes["seconds"]) == (KEY, 600, 1.5)
    for word in ("tiny fp16 [tiles=1x16x16] rtx 1.7.1", "RTX 4070 SM89", "62 of 62"):
        assert word in str(entry)
    assert use.said == []


@pytest.mark.parametrize("field", list(PlanKey.__dataclass_fields__))
def test_whatever_differs_makes_another_engine(use, field):
    use.get()
    value = getattr(KEY, field)
    other = replace(
        KEY,
        **{field: value + 1 if isinstance(value, int) else (*value, "x") if isinstance(value, tuple) else value + "x"},
    )
    use.get(other)
    assert use.builds == 2
    use.get()
    assert use.builds == 2


def test_what_differs_from_a_kept_one_is_named(use):
    use.get()
    use.get(replace(KEY, gpu="RTX 3060", multiprocessors=28))
    assert use.said == ["the kept engine of this model is for gpu RTX 4070, multiprocessors 46: another is built"]


def damage_engine(path):
    path.write_bytes(path.read_bytes()[:-3])


def damage_json(path):
    path.with_suffix(".json").write_text("{")


def lose_json(path):
    path.with_suffix(".json").unlink()


def foreign_json(path):
    fields = json.loads(path.with_suffix(".json").read_text())
    fields["key"]["gpu"] = "another"
    path.with_suffix(".json").write_text(json.dumps(fields))


def empty_json(path):
    path.with_suffix(".json").write_text("[]")


@pytest.mark.parametrize("harm", [damage_engine, damage_json, lose_json, foreign_json, empty_json])
def test_a_damaged_one_is_rebuilt_with_one_line(use, harm):
    use.get()
    (path,) = use.cache.folder.glob("*.engine")
    harm(path)
    assert use.get() == b"engine" * 100
    assert use.builds == 2
    assert len(use.said) == 1
    assert "is damaged: it is built again" in use.said[0]
    use.get()
    assert use.builds == 2


def test_a_stale_one_is_rebuilt_with_its_reason(use):
    use.get()
    answers = [BackendError("TensorRT", "it is for another card or version", "x"), None]

    def accept(data):
        if answer := answers.pop(0):
            raise answer
        return data

    assert use.get(accept=accept) == b"engine" * 100
    assert use.builds == 2
    assert "stale (it is for another card or version): it is built again" in use.said[0]


def test_a_new_one_that_is_refused_is_an_error_and_memory_is_no_reason_to_rebuild(use):
    def refuse(kind):
        def accept(data):
            raise kind("TensorRT", "no", "x")

        return accept

    with pytest.raises(BackendError):
        use.get(accept=refuse(BackendError))
    with pytest.raises(OutOfMemoryError):
        use.get(accept=refuse(OutOfMemoryError))
    assert use.builds == 1


def test_a_folder_that_cannot_be_written_costs_a_line_and_a_rebuild(tmp_path):
    (tmp_path / "file").write_text("a file in the place of a folder")
    use = Use(tmp_path / "file" / "engines")
    for count in (1, 2):
        assert use.get() == b"engine" * 100
        assert use.builds == count
    assert "cannot be kept" in use.said[0]
    assert "\n" not in use.said[0]
    assert use.cache.entries() == []
    assert use.cache.clear() == 0


def test_a_build_that_fails_leaves_nothing(use):
    def fails():
        raise BackendError("model.onnx", "cannot be built", "x")

    with pytest.raises(BackendError):
        use.cache.load_or_build(KEY, fails, bytes)
    assert [path for path in use.cache.folder.iterdir() if path.suffix != ".lock"] == []
    assert use.get() == b"engine" * 100


def test_clear_takes_what_is_ours_only(use):
    use.get()
    use.get(replace(KEY, gpu="another"))
    use.cache.keep_extra("rtx-1.7.timing", b"1")
    (use.cache.folder / "notes.txt").write_text("mine")
    assert use.cache.read_extra("rtx-1.7.timing") == b"1"
    assert use.cache.clear() == 2
    assert {path.name for path in use.cache.folder.iterdir() if path.suffix != ".lock"} == {"notes.txt"}
    assert use.cache.read_extra("rtx-1.7.timing") == b""


def test_the_folder_is_the_users_or_the_named_one(monkeypatch, tmp_path):
    monkeypatch.delenv("DEFOCUS_CACHE", raising=False)
    assert PlanCache().folder.parts[-2:] == ("defocus", "engines")
    monkeypatch.setenv("DEFOCUS_CACHE", str(tmp_path))
    assert PlanCache().folder == tmp_path / "engines"


def test_one_that_was_built_between_the_look_and_the_lock_is_taken(use, monkeypatch):
    other, locked = Use(use.cache.folder), use.cache._locked

    def late(*given):
        other.get()
        return locked(*given)

    monkeypatch.setattr(use.cache, "_locked", late)
    assert use.get() == b"engine" * 100
    assert (other.builds, use.builds) == (1, 0)


PROCESS = """
import sys
from pathlib import Path
from defocus.engine.inference.backends.tensorrt.plan_cache import PlanCache, PlanKey
folder = Path(sys.argv[1])
key = PlanKey("m", "fp16", (), "rtx", "1", "Linux", "card", "SM89", 1)
def build():
    print("builds", flush=True)
    sys.stdin.readline()
    return b"engine", {}
print(PlanCache(folder, lambda line: print(line, flush=True)).load_or_build(key, build, bytes), flush=True)
"""


def start(folder):
    """A process that says "builds", and builds until it gets a line."""
    command = [sys.executable, "-c", PROCESS, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path):
    first = start(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "builds\n"
    second = start(tmp_path)
    assert second.stdout is not None
    assert second.stdout.readline() == "another process builds this engine: waiting for it\n"
    outputs = [process.communicate("go on\n", timeout=300)[0] for process in (first, second)]
    assert outputs == ["b'engine'\n", "b'engine'\n"]


def test_a_builder_that_is_killed_blocks_nobody(tmp_path):
    first = start(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "builds\n"
    second = start(tmp_path)
    assert second.stdout is not None
    assert "waiting" in second.stdout.readline()
    first.kill()
    first.communicate(timeout=300)
    assert second.communicate("go on\n", timeout=300)[0] == "builds\nb'engine'\n"


def test_waiting_has_an_end(tmp_path):
    first = start(tmp_path)
    assert first.stdout is not None
    assert first.stdout.readline() == "builds\n"
    key = PlanKey("m", "fp16", (), "rtx", "1", "Linux", "card", "SM89", 1)
    with pytest.raises(BackendError, match="another process has been building this engine for 0 s"):
        PlanCache(tmp_path).load_or_build(key, lambda: (b"", {}), bytes, wait=0.3)
    first.kill()
    first.communicate(timeout=300)
