"""Make uint16.ptx of uint16.cu (engine/inference/gpu), and check that every card's assembler takes it. Needs no GPU.

    pip install nvidia-cuda-nvrtc-cu11==11.7.99 nvidia-cuda-nvcc     # in an environment of their own
    python -m benchmarks.gpu.ptx            # compile, then check
    python -m benchmarks.gpu.ptx --check    # compile nothing, check the PTX that is in the package

The old compiler is on purpose: the driver must know the version of the PTX that it is given, and that of CUDA 11.7 is
known to all drivers since 2022. The card's own code is made by the driver when the PTX is loaded. Exit code: 0, 1 if a
check fails, 2 if a tool is missing.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "engine" / "inference" / "gpu" / "uint16.cu"
PTX = SOURCE.with_suffix(".ptx")
TARGET = "compute_75"  # the oldest card that TensorRT runs on
CARDS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
LOST = "nvidia-cuda-{} is not installed"


def stamp(source: bytes) -> str:
    """The first line of the PTX: which source it was made of."""
    return f"// of uint16.cu, sha256 {hashlib.sha256(source).hexdigest()}"


def wheel_file(pattern: str) -> Path | None:
    """A file of NVIDIA's wheels, wherever Python looks for packages."""
    return next((found for folder in sys.path for found in sorted(Path(folder, "nvidia").glob(pattern))), None)


def compiled(source: bytes) -> bytes:
    """PTX of CUDA C by NVRTC. Raises SystemExit with the compiler's own words."""
    library = wheel_file("*/lib/libnvrtc.so*")
    if library is None:
        print(LOST.format("nvrtc"))
        sys.exit(2)
    nvrtc = ctypes.CDLL(str(library))
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"uint16.cu", 0, None, None)
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture={TARGET}".encode(), b"--fmad=false")
    failed = nvrtc.nvrtcCompileProgram(program, len(options), options)
    kind = "ProgramLog" if failed else "PTX"
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{kind}")(program, text)
    if failed:
        sys.exit(text.value.decode())
    return text.value


def assembled(ptx: Path, card: str) -> str | None:
    """What ptxas has against the PTX for a card, or None."""
    ptxas = wheel_file("*/bin/ptxas")
    if ptxas is None:
        print(LOST.format("nvcc"))
        sys.exit(2)
    with tempfile.TemporaryDirectory() as folder:
        line = [str(ptxas), f"--gpu-name={card}", "-o", str(Path(folder, "x.cubin")), str(ptx)]
        done = subprocess.run(line, capture_output=True, text=True)
    return None if done.returncode == 0 else (done.stderr or done.stdout).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compile nothing")
    options = parser.parse_args()
    source = SOURCE.read_bytes()
    if not options.check:
        PTX.write_bytes(stamp(source).encode() + b"\n" + compiled(source))
    if PTX.read_text(encoding="ascii").partition("\n")[0] != stamp(source):
        sys.exit(f"{PTX.name} was not made of this {SOURCE.name}: run this without --check")
    for card in CARDS:
        if wrong := assembled(PTX, card):
            sys.exit(f"{card}: {wrong}")
        print(f"{card}: assembles")


if __name__ == "__main__":
    main()
