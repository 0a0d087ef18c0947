"""The widget: restores the planes of an image layer in a thread, with progress, and adds the result as a layer."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, Label, ProgressBar, PushButton, create_widget
from napari.layers import Image
from superqt.utils import create_worker  # napari.qt.threading wraps it, and its wrapper cannot take an error (0.9.2)

from defocus.engine.api import restore
from defocus.engine.errors import DefocusError

if TYPE_CHECKING:
    import napari

    from defocus.engine.inference.engine import Engine
    from defocus.engine.quality.report import PlaneReport

ALL, SHOWN = "all planes", "the plane shown"
Index = tuple[int, ...]


class RestoreWidget(Container):
    """Choose a layer, press Restore: a new layer appears beside it, with scale, colour map and a report of each plane.

    Planes that are sharp already are kept as they are, unless the box is ticked. The original layer is never changed.
    """

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        self._viewer = napari_viewer
        self._layer: Any = create_widget(annotation=Image, label="layer")
        self._planes = ComboBox(label="restore", choices=[ALL, SHOWN], value=ALL)
        self._sharp_too = CheckBox(label="sharp planes, too", value=False)
        self._start, self._cancel = PushButton(text="Restore"), PushButton(text="Cancel", enabled=False)
        self._progress = ProgressBar(label="planes", value=0, min=0, max=1)
        self._text = Label(value="")
        self._engine: Engine | None = None
        self.worker: Any = None
        super().__init__(
            widgets=[
                self._layer,
                self._planes,
                self._sharp_too,
                Container(widgets=[self._start, self._cancel], layout="horizontal", labels=False),
                self._progress,
                self._text,
            ]
        )
        self._start.changed.connect(self.restore)
        self._cancel.changed.connect(self.cancel)
        self._viewer.layers.events.inserted.connect(self.reset_choices)
        self._viewer.layers.events.removed.connect(self.reset_choices)
        self._viewer.layers.selection.events.active.connect(self.reset_choices)

    def restore(self) -> None:
        """Begin with the chosen layer."""
        layer = self._layer.value
        if layer is None:
            self._text.value = "open an image first"
            return
        if layer.multiscale:
            self._text.value = "has several resolutions: choose a layer of one (layer.data[0])"
            return
        indices = list(self._indices(layer))
        self._progress.max, self._progress.value = len(indices), 0
        self._start.enabled, self._cancel.enabled = False, True
        self._text.value = "loading the model" if self._engine is None else ""
        self.worker = create_worker(
            self._restored,
            layer,
            indices,
            self._sharp_too.value,
            _connect={
                "yielded": self._show_progress,
                "returned": self._add,
                "errored": self._tell,
                "finished": self._finished,
            },
            _start_thread=True,
        )

    def reset_choices(self, *_: Any) -> None:
        """List the layers, and choose the one that is selected, if it is an image. Called when it is docked, too."""
        super().reset_choices()
        active = self._viewer.layers.selection.active
        if active in self._layer.choices:
            self._layer.value = active

    def cancel(self) -> None:
        """Leave after the plane in progress; nothing is added."""
        if self.worker is not None:
            self.worker.quit()

    def _indices(self, layer: Image) -> Iterator[Index]:
        """Where the planes lie that are to be restored, in the leading axes of the layer's data."""
        leading = layer.data.shape[: layer.data.ndim - (3 if layer.rgb else 2)]
        if self._planes.value == SHOWN:
            # The viewer may have more dimensions than the layer: its last ones are the layer's.
            step = self._viewer.dims.current_step[self._viewer.dims.ndim - layer.ndim :]
            yield tuple(min(at, size - 1) for at, size in zip(step, leading, strict=False))
        else:
            yield from np.ndindex(*leading)

    def _restored(
        self, layer: Image, indices: list[Index], sharp_too: bool
    ) -> Generator[int, None, tuple[Image, np.ndarray, dict[Index, list[PlaneReport]]]]:
        """Run in a thread: yields how many planes are done, returns the result."""
        if self._engine is None:
            from defocus import Engine

            self._engine = Engine.load()
        axes = "YXS" if layer.rgb else "YX"
        planes, reports = [], {}
        for number, index in enumerate(indices):
            seen = np.asarray(layer.data[index])  # pyright: ignore[reportArgumentType]
            name = f"{layer.name} {index or ''}".strip()
            plane, found = restore(self._engine, seen, axes, sharp_too, name)
            reports[index] = list(found)
            planes.append(plane)
            yield number + 1
        shape = planes[0].shape
        whole = len(indices) == prod(layer.data.shape[: layer.data.ndim - len(axes)])
        data = np.stack(planes).reshape(layer.data.shape) if whole else planes[0].reshape(shape)
        return layer, data, reports

    def _show_progress(self, done: int) -> None:
        self._progress.value = done
        self._text.value = ""

    def _add(self, result: tuple[Image, np.ndarray, dict[Index, list[PlaneReport]]]) -> None:
        layer, data, reports = result
        lost = layer.data.ndim - data.ndim  # one plane of a stack has fewer axes
        table = [
            {"plane": index, "channel": channel, **report.as_dict()}
            for index, planes in reports.items()
            for channel, report in enumerate(planes)
        ]
        colours = {} if layer.rgb else {"colormap": layer.colormap, "contrast_limits": layer.contrast_limits}
        self._viewer.add_image(
            data,
            name=f"{layer.name} corrected",
            rgb=layer.rgb,
            scale=layer.scale[lost:],
            translate=layer.translate[lost:],
            blending=layer.blending,
            metadata={"defocus": table},
            **colours,
        )
        self._viewer.layers.selection.active = layer  # napari selects what is new
        self._text.value = _summary([report for planes in reports.values() for report in planes])

    def _tell(self, error: BaseException) -> None:
        self._text.value = str(error) if isinstance(error, DefocusError) else f"failed: {error}"

    def _finished(self) -> None:
        self._start.enabled, self._cancel.enabled = True, False


def _summary(reports: list[PlaneReport]) -> str:
    """What came of it, in a line."""
    if len(reports) == 1:
        (report,) = reports
        blur = "" if report.blur_px is None else f", blur {report.blur_px:.1f} px"
        return f"{'kept as it was' if report.copied else 'restored'}: {report.verdict}{blur}"
    verdicts = [report.verdict for report in reports]
    counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
    return f"{sum(not report.copied for report in reports)} of {len(reports)} planes restored ({counted})"
