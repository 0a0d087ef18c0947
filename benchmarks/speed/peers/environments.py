"""An environment of its own for each way, made once by pip from the package index and kept."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

# The very wheel that made the network's program; plain `torch` would pull gigabytes of CUDA.
_TORCH = f"torch=={torch.__version__}"
_TIFF = ("numpy", "tifffile", "imagecodecs")


@dataclass(frozen=True)
class Environment:
    """What pip installs.

    Attributes
    ----------
    requirements : tuple of str
        With all that they need.
    alone : tuple of str
        Afterwards, without what they say they need.
    """

    name: str
    requirements: tuple[str, ...]
    alone: tuple[str, ...] = ()

    def python(self, folder: Path) -> Path:
        """Its interpreter below `folder`; made now if it is not there.

        Raises
        ------
        RuntimeError
            pip could not install it; the last lines of what it said.
        """
        digest = hashlib.sha256(repr((self, sys.version)).encode()).hexdigest()[:8]
        place = folder / f"{self.name}-{digest}"
        python, done = place / "bin" / "python", place / ".done"
        if done.exists():
            return python
        print(f"peers: installing {place.name}", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(place)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        _run([*pip, *self.requirements])
        if self.alone:
            _run([*pip, "--no-deps", *self.alone])
        done.touch()
        return python


PLAIN = Environment("plain", (*_TIFF, "onnxruntime"))
TORCH = Environment("torch", (*_TIFF, _TORCH))
BIOIMAGEIO = Environment("bioimageio", (*_TIFF, "bioimageio.core>=0.10", "onnxruntime", "pydantic<2.14"))
# careamics wants torchvision <= 0.26, whose wheels want torch 2.11 with CUDA: it is installed beside torch's CPU wheel,
# and with_careamics.py stands in for torchvision, which only its variational networks use.
CAREAMICS = Environment(
    "careamics",
    (
        *(_TORCH, "torchmetrics<1.9", "lightning!=2.6.2,!=2.6.3,<=2.6.6", "bioimageio.core>=0.9,<=0.11", "microssim"),
        *("imagecodecs", "matplotlib", "pillow", "psutil<=7.2.2", "pydantic<2.14", "pyyaml<=6.0.3", "numpy<=2.4.6"),
        *("scikit-image<=0.26", "tifffile<=2026.3.3", "zarr>=3,<4"),
    ),
    ("careamics==0.3.5",),
)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("\n".join(done.stderr.splitlines()[-3:]))
