"""An acquisition by pymmcore-plus with a camera and a focus drive in Python, no device library of Micro-Manager needed.

    python microscope.py TARGET.ome.tif TIMES SECONDS [WRITER] [POSITIONS]

A time series of two channels and three heights is driven by useq-schema and written by ome-writers as it comes: an
OME-TIFF that grows by a page at a time, `SECONDS` between two times. The number in the pixels counts the pages.
WRITER is "tifffile" or "sequence" for the older handlers of pymmcore-plus; POSITIONS are places along the focus.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import useq
from pymmcore_plus.experimental.unicore import SimpleCameraDevice, StageDevice, StateDevice, UniMMCore

SHAPE = (96, 128)
CHANNELS, HEIGHTS = ("DAPI", "FITC"), (-1.0, 0.0, 1.0)


class Camera(SimpleCameraDevice):
    """Noise around a number that grows by 100 with each picture."""

    def __init__(self) -> None:
        super().__init__()
        self._exposure, self._taken = 5.0, 0

    def get_exposure(self) -> float:
        return self._exposure

    def set_exposure(self, exposure: float) -> None:
        self._exposure = exposure

    def sensor_shape(self) -> tuple[int, int]:
        return SHAPE

    def dtype(self) -> type:
        return np.uint16

    def snap(self, buffer: np.ndarray) -> Mapping:
        time.sleep(self._exposure / 1000)  # the camera exposes
        buffer[:] = 1000 + 100 * self._taken + np.random.default_rng(self._taken).integers(0, 50, SHAPE)
        self._taken += 1
        return {}


class Focus(StageDevice):
    def __init__(self) -> None:
        super().__init__()
        self._z = 0.0

    def home(self) -> None:
        self._z = 0.0

    def stop(self) -> None:
        pass

    def set_origin(self) -> None:
        self._z = 0.0

    def set_position_um(self, val: float) -> None:
        self._z = val

    def get_position_um(self) -> float:
        return self._z


class Wheel(StateDevice):
    """A filter wheel."""

    def __init__(self) -> None:
        super().__init__(dict(enumerate(CHANNELS)))
        self._at = 0

    def get_state(self) -> int:
        return self._at

    def set_state(self, position: int | str) -> None:
        self._at = int(position)


def acquire(target: str, times: int, seconds: float, writer: str = "", positions: int = 1) -> None:
    """Run the acquisition to its end; raises what its thread met."""
    output: Any = target
    if writer:
        from pymmcore_plus.mda import handlers  # deprecated: imported by whoever asks for it

        kinds = {"tifffile": handlers.OMETiffWriter, "sequence": handlers.ImageSequenceWriter}
        output = kinds[writer](target)
    core = UniMMCore()
    for label, device in (("Camera", Camera()), ("Focus", Focus()), ("Wheel", Wheel())):
        core.loadPyDevice(label, device)
        core.initializeDevice(label)
    core.setAutoShutter(False)
    core.setCameraDevice("Camera")
    core.setFocusDevice("Focus")
    for name in CHANNELS:
        core.defineConfig("Channel", name, "Wheel", "Label", name)
    core.definePixelSizeConfig("20x")
    core.setPixelSizeUm("20x", 0.65)
    core.updateSystemStateCache()
    sequence = useq.MDASequence(
        axis_order="ptcz",  # pyright: ignore[reportArgumentType]
        channels=list(CHANNELS),  # pyright: ignore[reportArgumentType]
        z_plan=useq.ZRelativePositions(relative=list(HEIGHTS)),
        stage_positions=[{"z": 10.0 * place, "name": f"place{place}"} for place in range(positions)],  # pyright: ignore[reportArgumentType]
        time_plan=useq.TIntervalLoops(interval=seconds, loops=times),  # pyright: ignore[reportArgumentType]
    )
    core.mda.run(sequence, output=output)


if __name__ == "__main__":
    given = [*sys.argv[4:], *("", "1")[len(sys.argv[4:]) :]]
    acquire(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), given[0], int(given[1]))
