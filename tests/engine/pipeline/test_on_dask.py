"""Files over real Dask workers: one of them killed half-way, the same submitted twice, and addresses that are none."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError, MissingExtraError
from defocus.engine.inference.cached_engine import CachedEngine
from defocus.engine.model.card import read_card
from defocus.engine.pipeline import on_dask
from defocus.engine.pipeline.batch import Status, find
from defocus.engine.pipeline.on_dask import Task, restore_on
from defocus.engine.threads import available_cores
from defocus.engine.tiff.read import read_tiff

from ...helpers.waiting import wait_for

pytest.importorskip("distributed", reason='needs dask: pip install ".[dask]"')


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for index in range(40):
        image = np.random.default_rng(index).integers(100, 3000, (256, 256), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "in" / f"{index:02d}.tif", image)
    (tmp_path / "in" / "bad.tif").write_bytes(b"II*\0 no image")
    return tmp_path


def run(folder: Path, model: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "defocus.engine.cli.run", str(folder / "in"), "-o", str(folder / "out")]
    line += ["--model", str(model), "--backend", "cpu", "--json", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_workers_one_killed_half_way_lose_and_double_nothing(folder, tiny_model):
    from distributed import Client, LocalCluster

    jobs = find([folder / "in"], folder / "out")
    (folder / "out").mkdir()
    card = read_card(tiny_model)
    task = Task(str(tiny_model), card.sha256, "cpu", None, None, "plane", 1, False)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        with Client(cluster) as connected:
            client: Any = connected
            first = client.scheduler_info()["workers"]
            pids = list(client.run(os.getpid).values())
        assert len(first) == 2
        address = getattr(cluster, "scheduler_address")  # noqa: B009
        results = []

        def kill():
            wait_for(lambda: len(results) >= 8)
            os.kill(pids[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        for result in restore_on(str(address), jobs, card, task):
            results.append(result)
        killer.join()
    assert sorted(result.job.source for result in results) == sorted(job.source for job in jobs)
    failed = [result for result in results if result.status is Status.FAILED]
    assert [result.job.source.name for result in failed] == ["bad.tif"]
    outputs = sorted(path.name for path in (folder / "out").rglob("*") if path.is_file())
    assert outputs == sorted(job.source.name for job in jobs if job.source.name != "bad.tif")  # no temporaries either
    for name in outputs:
        assert read_tiff(folder / "out" / name).data.shape == (256, 256)


@pytest.mark.slow
def test_the_command_shares_out_and_a_second_submission_does_nothing(folder, tiny_model):
    done = run(folder, tiny_model, "--dask", "local:2")
    assert done.returncode == 1, done.stderr  # bad.tif
    assert "dashboard: http" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(line["status"] for line in lines) == ["done"] * 40 + ["failed"]
    times = {path: path.stat().st_mtime_ns for path in (folder / "out").iterdir()}
    again = run(folder, tiny_model, "--dask", "local:1")
    assert "40 skipped" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").iterdir()} == times


def test_threads_of_one_worker_share_its_engine_and_the_scheduler_never_holds_more_than_its_part(
    folder, tiny_model, monkeypatch
):
    """Four threads, one engine that serves one at a time (an OpenVINO request refuses a second); parts of six."""
    from distributed import LocalCluster

    monkeypatch.setattr(on_dask, "SUBMITTED", 6)
    monkeypatch.setattr(on_dask, "_ENGINE", CachedEngine(on_dask._load))
    jobs = find([folder / "in"], folder / "out")
    card = read_card(tiny_model)
    backend = "openvino" if find_spec("openvino") else "cpu"
    task = Task(str(tiny_model), card.sha256, backend, None, None, "plane", None, False)
    most, statuses = 0, []
    with LocalCluster(n_workers=1, threads_per_worker=4, processes=False, dashboard_address="127.0.0.1:0") as made:
        cluster: Any = made
        for result in restore_on(str(cluster.scheduler_address), jobs, card, task):
            statuses.append(result.status)
            most = max(most, len(cluster.scheduler.tasks))
    assert sorted(statuses) == [Status.DONE] * 40 + [Status.FAILED]  # bad.tif
    assert 0 < most <= 6 + 2  # those that are being forgotten may still be there


def test_local_workers_share_the_cores_and_the_dashboards_link_leads_somewhere():
    """Two workers never take more threads than there are cores (but for one each)."""
    with ExitStack() as stack:
        client = on_dask._client("local:2", stack)
        threads = list(client.nthreads().values())
        with urlopen(client.dashboard_link, timeout=300) as page:
            assert page.status == 200
    assert len(threads) == 2
    assert sum(threads) <= max(2, available_cores())


def test_another_user_of_the_machine_cannot_run_code_in_the_workers():
    """Whoever finds the port needs the key, which never leaves this process."""
    from distributed import Client
    from distributed.security import Security

    with ExitStack() as stack:
        client = on_dask._client("local:1", stack)
        assert client.submit(os.getpid).result(timeout=300) != os.getpid()
        address = client.scheduler.address
        workers = list(client.nthreads())
        assert address.startswith("tls://127.0.0.1:")
        assert all(worker.startswith("tls://") for worker in workers)
        for stranger in (None, Security.temporary()):
            for target in (address, address.replace("tls://", "tcp://")):
                with pytest.raises((OSError, RuntimeError, ValueError, TypeError)):
                    Client(target, security=stranger, timeout="3s", loop=client.loop)
                gc.collect()  # a refused client ends here; within the next one's start it would wait for itself


def test_the_certificates_that_dask_is_configured_with_are_used(tmp_path, monkeypatch):
    from dask import config

    with config.set({"distributed.comm.tls.ca-file": str(tmp_path / "ca.pem")}):
        security = on_dask._security()
        assert security.tls_ca_file == str(tmp_path / "ca.pem")
        assert security.require_encryption
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[dask\]"):
        on_dask._security()


def test_an_address_that_makes_no_sense_is_one_line(tmp_path, tiny_model):
    tifffile.imwrite(tmp_path / "a.tif", np.eye(64, dtype=np.uint16))
    jobs = find([tmp_path / "a.tif"], tmp_path / "out")
    card = read_card(tiny_model)
    task = Task(str(tiny_model), card.sha256, "cpu", None, None, "plane", 1, False)
    with pytest.raises(InputError, match="write local:2"):
        list(restore_on("local:many", jobs, card, task))


def test_a_worker_with_another_model_says_so(tmp_path, tiny_model):
    task = Task(str(tiny_model), "0" * 64, "cpu", None, None, "plane", 1, False)
    with pytest.raises(InputError, match="another model on this worker"):
        on_dask._load(task)
