"""Nothing reports home: ONNX Runtime's telemetry is off in every process before the library is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import builtins, os
real = builtins.__import__
def watched(name, *rest):
    if name == "onnxruntime":
        print("telemetry off:", os.environ.get("ORT_DISABLE_TELEMETRY"))
        raise SystemExit
    return real(name, *rest)
builtins.__import__ = watched
{}
"""


@pytest.mark.parametrize(
    "use",
    [
        "import defocus; defocus.Engine.load(backend='cpu')",
        "import numpy, defocus; defocus.deblur(numpy.zeros((16, 16)), backend='cpu')",
        "import sys; sys.argv = ['defocus-doctor']; from defocus.engine.cli.doctor import main; main()",
    ],
)
@pytest.mark.parametrize("told", [None, "0"])
def test_telemetry_is_off_before_onnxruntime_is_imported(use, told):
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    if told is not None:
        environment["ORT_DISABLE_TELEMETRY"] = told
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(use)], env=environment, capture_output=True, text=True, check=False
    )
    assert "telemetry off: 1" in done.stdout, done.stdout + done.stderr
