"""Options, each declared once: command line, settings file, --print-config and docs/reference/commands.md follow it.

What only one command takes is declared in its signature; what several take, and what may stand in a settings file, is
an `Option`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..quality.report import SHARP_BLUR_PX, Doubtful

DAY = 86400.0  # s


@dataclass(frozen=True)
class Option:
    """What an option means and which values it takes; its name, type and default stand where it is used.

    Attributes
    ----------
    help : str
        One sentence or two.
    least, most : float
        Of a number; no number option takes NaN or infinity.
    choices : tuple of str
        The words it takes, if only these.
    flags : tuple of str
        How it is written; by default --name. A switch needs it, or else there is a --no-name as well.
    metavar, panel, envvar : str or None
        The name of its value and of its panel in --help; the environment variable that stands in for it.
    shown : str or None
        The default in words, where the value itself says nothing.
    """

    help: str
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    panel: str | None = None
    envvar: str | None = None
    shown: str | None = None

    def refusal(self, value: Any) -> str | None:
        """What to use instead of a value, None if it is right."""
        if self.choices:
            return None if value in self.choices else f"use {' or '.join(self.choices)}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return "use a number"
        if value < self.least:
            return f"use {self.least:g} or more"
        return f"use {self.most:.10g} or less" if value > self.most else None

    @property
    def bounds(self) -> str:
        """The bounds in words, "" if there are none."""
        if math.isfinite(self.most):
            return f"{self.least:.10g} to {self.most:.10g}"
        return f"{self.least:g} or more" if math.isfinite(self.least) else ""

    def typer(self, *flags: str) -> Any:
        """The declaration for typer."""
        import typer

        return typer.Option(
            *(flags or self.flags),
            help=self.help,
            metavar=self.metavar,
            rich_help_panel=self.panel,
            envvar=self.envvar,
            show_default=True if self.shown is None else (self.shown or False),
            callback=self._checked,
        )

    def _checked(self, value: Any) -> Any:
        import typer

        for entry in value if isinstance(value, list | tuple) else (value,):
            if not self.choices and (remedy := self.refusal(entry)):
                raise typer.BadParameter(f"{entry} is not possible; {remedy}")
        return value


MODEL = Option('"default" or an ONNX file made by defocus-export.', metavar="FILE")
BACKEND = Option("auto (the first that works), tensorrt, rtx, cuda, mnn, openvino or cpu.", metavar="NAME")
THREADS = Option("Processor threads.", least=1, most=1024, metavar="N", shown="all cores")
TILE = Option(
    "Longest side of a tile in pixels, halo included.",
    least=1,
    most=2**20,
    metavar="PX",
    shown="as --memory allows",
)
HALO = Option("Overlap of tiles in pixels.", least=0, most=2**20, metavar="PX", shown="the model's")
MEMORY = Option(
    "GB that tiles may take, and files as much again; files of more than a sixth are processed through a temporary "
    "file beside the output. 0: what is free.",
    least=0,
    most=1e6,
    metavar="GB",
)
CHANNELS = Option(
    "For a model of several channels: which files of one channel each belong together (*_w{channel}*).",
    metavar="PATTERN",
    shown="",
)
INCLUDE = Option("Only files that match (*_w1*); may be repeated.", metavar="PATTERN", shown="")
EXCLUDE = Option("No files that match; may be repeated.", metavar="PATTERN", shown="")
ALL_PLANES = Option(
    "Restore every plane, also those that would be kept: sharp ones "
    f"(the model sharpens them by less than {SHARP_BLUR_PX:g} px) and empty ones.",
    flags=("--all-planes",),
)
ONLY_DEFOCUSED = Option(
    "No effect, for old scripts: sharp planes are kept unless --all-planes is given.", flags=("--only-defocused",)
)
COMPANIONS = Option(
    'Names of files to be copied beside the corrected ones; may be repeated; "none": none.',
    metavar="PATTERN",
    shown="what Micro-Manager, NDTiff, OME and MetaMorph write",
)
KEEP_DOUBTFUL = Option(
    "What to write for a doubtful plane: the original, or the corrected plane.",
    choices=tuple(choice.value for choice in Doubtful),
    metavar="original|corrected",
)
