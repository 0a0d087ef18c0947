"""/healthz is red from the first write that fails to the first that works, whatever the reason."""

from __future__ import annotations

import json
from errno import EBUSY, EIO, ENOSPC

import pytest

from ...helpers.faults import name_of
from ...helpers.waiting import wait_for
from ..conftest import free_port, outputs, write_tiff
from ..test_faults import PREFIX, QUICK, faults, shim  # noqa: F401  fixtures
from .test_status import ask, state


@pytest.mark.parametrize(("call", "number"), [("open", EIO), ("fsync", ENOSPC), ("rename", EBUSY)], ids=str)
def test_healthz_is_red_while_nothing_can_be_written(folders, start, faults, call, number):  # noqa: F811
    acquisition, out = folders
    port = free_port()
    start(*QUICK, "--status", str(port), environment=faults.environment).ready()
    assert ask(port, "/healthz")[0] == 200
    with faults.during((call, number, f"{out}/a.tif" if call == "rename" else f"{out}/{PREFIX}*")):
        write_tiff(acquisition / "a.tif")
        wait_for(lambda: ask(port, "/healthz")[0] == 503)
        (problem,) = json.loads(ask(port, "/healthz")[2])["problems"]
        assert "a.tif" in problem, name_of(number)
        assert state(port)["problems"] == [problem]
        assert "defocus_up 0\n" in ask(port, "/metrics")[2].decode()
        assert outputs(out) == []
    wait_for(lambda: outputs(out) == ["a.tif"])
    wait_for(lambda: ask(port, "/healthz")[0] == 200)
