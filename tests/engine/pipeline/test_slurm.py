"""`--dask slurm` on a real SLURM of this one machine, started for the test: a controller, a node, jobs as workers."""

from __future__ import annotations

import gc
import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tifffile

from defocus.engine.errors import InputError
from defocus.engine.pipeline import on_dask

from ...helpers.waiting import wait_for

pytest.importorskip("dask_jobqueue", reason='needs dask-jobqueue: pip install ".[dask,slurm]"')

JOBS = {
    "DASK_JOBQUEUE__SLURM__CORES": "1",
    "DASK_JOBQUEUE__SLURM__MEMORY": "1GB",
    "DASK_JOBQUEUE__SLURM__INTERFACE": "lo",
}
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
SelectType=select/cons_res
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def run(folder: Path, model: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "defocus.engine.cli.run", str(folder / "in"), "-o", str(folder / "out")]
    line += ["--model", str(model), "--backend", "cpu", "--json", "--dask", "slurm"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DASK_")}
    return subprocess.run(
        line, capture_output=True, text=True, timeout=300, cwd=folder, env=clean | environment, check=False
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    for index in range(12):
        image = np.random.default_rng(index).integers(100, 3000, (128, 128), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "in" / f"{index:02d}.tif", image)
    return tmp_path


def test_without_a_description_of_a_job_it_says_in_one_line_where_that_goes(folder, tiny_model):
    done = run(folder, tiny_model, DASK_CONFIG=str(folder / "none"))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "does not describe a job; write jobqueue.slurm.cores" in done.stderr


def test_its_credentials_leave_no_traceback_whenever_dask_lets_go_of_them(tmp_path, monkeypatch):
    """The folder they lie in may be gone by then."""
    monkeypatch.chdir(tmp_path)
    leftovers = []
    monkeypatch.setattr(sys, "unraisablehook", leftovers.append)
    with pytest.raises(InputError) as refused, ExitStack() as stack:
        on_dask._client("slurm", stack)
    assert list(tmp_path.iterdir()) == []
    del refused  # and with it the cluster, in the frames of its traceback
    gc.collect()
    assert leftovers == []


def test_its_credentials_are_files_that_only_this_user_can_read(tmp_path):
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=tmp_path)))
        security = on_dask._in_files(on_dask._security(), folder)
        worker = security.get_tls_config_for_role("worker")
        assert {Path(worker[name]).parent for name in ("ca_file", "key", "cert")} == {folder}
        assert folder.stat().st_mode & 0o077 == 0
        for role in ("scheduler", "worker", "client"):
            assert security.get_listen_args(role)["ssl_context"].cert_store_stats()["x509"] == 1


@pytest.fixture
def slurm(tmp_path) -> Iterator[dict[str, str]]:
    """A SLURM of this machine's own; yields the environment in which its commands find it."""
    if not (shutil.which("slurmctld") and shutil.which("slurmd")):
        pytest.skip("needs SLURM: apt-get install slurmctld slurmd slurm-client")
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    configuration = tmp_path / "slurm.conf"
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = one.getsockname()[1], other.getsockname()[1]
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    configuration.write_text(
        CONFIGURATION.format(
            host=host, controller=ports[0], node=ports[1], user=user, folder=tmp_path, cpus=os.cpu_count()
        )
    )
    environment = {"SLURM_CONF": str(configuration)}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("slurmctld", "slurmd"):
            with (tmp_path / f"{name}.log").open("wb") as log:
                daemons.append(subprocess.Popen([name, "-D", "-f", str(configuration)], stdout=log, stderr=log))
        _until_idle(environment, daemons, tmp_path)
        yield environment
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(300)


def _until_idle(environment: dict[str, str], daemons: list[subprocess.Popen[bytes]], folder: Path) -> None:
    def idle() -> bool:
        logs = "".join((folder / f"{name}.log").read_text()[-2000:] for name in ("slurmctld", "slurmd"))
        assert all(daemon.poll() is None for daemon in daemons), f"SLURM did not come up: {logs}"
        line = ["sinfo", "--noheader", "--format=%T"]
        state = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, check=False).stdout
        return state.strip() == "idle"

    wait_for(idle)


@pytest.mark.slow
def test_files_go_through_jobs_that_slurm_started(folder, tiny_model, slurm):
    done = run(folder, tiny_model, **JOBS, **slurm)
    assert done.returncode == 0, done.stderr
    assert "dashboard: http" in done.stderr
    assert [json.loads(line)["status"] for line in done.stdout.splitlines()] == ["done"] * 12
    assert sorted(path.name for path in (folder / "out").iterdir()) == [f"{index:02d}.tif" for index in range(12)]
    logs = list(folder.glob("slurm-*.out"))  # SLURM's own log of each job: the workers really ran in jobs
    assert logs
    assert any("Start worker at" in log.read_text() for log in logs)
    # No job is left behind, and a second submission does nothing.
    wait_for(lambda: not _queue(slurm))
    assert "12 skipped" in run(folder, tiny_model, **JOBS, **slurm).stderr


def _queue(slurm: dict[str, str]) -> str:
    line = ["squeue", "--noheader", "--states=PENDING,RUNNING"]
    return subprocess.run(line, env=os.environ | slurm, capture_output=True, text=True, check=True).stdout
