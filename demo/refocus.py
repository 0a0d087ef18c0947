"""A stage that drifts, and is brought back as soon as the blur of a frame passes a threshold: `python demo/refocus.py`.

The microscope is pymmcore-plus with a camera and a focus drive in Python: the camera draws a specimen as far out of
focus as the drive is from the specimen, which drifts by a step with each frame. Each frame goes through
`defocus.acquisition`; its blur says how far to move, and the next frame whether the direction was right.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

import numpy as np
import useq
from pymmcore_plus.experimental.unicore import SimpleCameraDevice, StageDevice, UniMMCore

import defocus
from defocus.acquisition import Frame, connect
from defocus.training.evaluation.heldout import CAMERA, OPTICS, PEAK_COUNTS
from defocus.training.physics.optics import defocus as out_of_focus
from defocus.training.physics.specimen import draw_cells

SHAPE = (256, 256)
THRESHOLD_PX = 6.0
UM_PER_PX = OPTICS.pixel_um / np.tan(np.arcsin(OPTICS.na))  # of defocus, per px of blur radius (geometric optics)


class Drive(StageDevice):
    """The focus drive."""

    z = 0.0

    def home(self) -> None:
        self.z = 0.0

    def stop(self) -> None:
        pass

    def set_origin(self) -> None:
        pass

    def set_position_um(self, val: float) -> None:
        self.z = val

    def get_position_um(self) -> float:
        return self.z


class DriftingCamera(SimpleCameraDevice):
    """Sees one field of cells, which drifts along the optical axis by `drift_um` with each picture."""

    def __init__(self, drive: Drive, drift_um: float) -> None:
        super().__init__()
        rng = np.random.default_rng(7)
        cells = draw_cells(SHAPE, rng)
        self._sharp = cells * (PEAK_COUNTS / np.percentile(cells, 99.9))
        self._drive, self._drift_um, self._rng = drive, drift_um, rng
        self.specimen_um, self.defocus_um = 0.0, list[float]()

    def get_exposure(self) -> float:
        return 10.0

    def set_exposure(self, exposure: float) -> None:
        pass

    def sensor_shape(self) -> tuple[int, int]:
        return SHAPE

    def dtype(self) -> type:
        return np.uint16

    def snap(self, buffer: np.ndarray) -> Mapping:
        distance = self._drive.z - self.specimen_um
        self.defocus_um.append(distance)
        buffer[:] = CAMERA.expose(out_of_focus(self._sharp, OPTICS, abs(distance)), self._rng)
        self.specimen_um += self._drift_um
        return {}


class Autofocus:
    """Moves the drive by the blur of a frame; turns round if the blur has become larger by that."""

    def __init__(self, core: UniMMCore, threshold_px: float = THRESHOLD_PX) -> None:
        self._core, self._threshold, self._direction, self._before = core, threshold_px, 1.0, None
        self.moves = 0

    def __call__(self, frame: Frame) -> None:
        blur = frame.report.blur_px or 0.0
        print(f"blur {blur:4.1f} px, {frame.report.verdict}")
        if blur < self._threshold:
            self._before = None
            return
        step = blur * UM_PER_PX
        if self._before is not None and blur > self._before:
            self._direction = -self._direction
            step += self._before * UM_PER_PX  # back over the way that was wrong
        self._before = blur
        self._core.setPosition(self._core.getPosition() + self._direction * step)
        self.moves += 1


def run(frames: int, drift_um: float, refocus: bool = True, model: str = "default") -> tuple[list[float], int]:
    """Acquire `frames` frames; how far each was out of focus, um, and how often the stage was moved."""
    core = UniMMCore()
    drive = Drive()
    camera = DriftingCamera(drive, drift_um)
    for label, device in (("Camera", camera), ("Focus", drive)):
        core.loadPyDevice(label, device)
        core.initializeDevice(label)
    core.setCameraDevice("Camera")
    core.setFocusDevice("Focus")
    core.setAutoShutter(False)
    autofocus = Autofocus(core)
    with (
        defocus.Engine.load(model) as engine,
        connect(core, engine, on_frame=autofocus if refocus else lambda frame: None) as connection,
    ):

        def events() -> Iterator[useq.MDAEvent]:
            for index in range(frames):
                yield useq.MDAEvent(index={"t": index})  # pyright: ignore[reportArgumentType]
                connection.wait()  # a real acquisition would not: its frames are minutes apart

        core.mda.run(events())
    return camera.defocus_um, autofocus.moves


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--drift-um", type=float, default=3.0, help="um a frame")
    options = parser.parse_args()
    distances, moves = run(options.frames, options.drift_um)
    print("out of focus, um: " + " ".join(f"{distance:.1f}" for distance in distances))
    print(f"moved {moves} times; without it the last frame would be {(options.frames - 1) * options.drift_um:g} um out")
