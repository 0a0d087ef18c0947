"""Options that several commands of training take, each declared once."""

from __future__ import annotations

from ...engine.cli.options import Option

SIMULATE = Option(
    "Folder of sharp images that are defocused during the training; may be repeated.", metavar="FOLDER[=WEIGHT]"
)
HOLD_OUT = Option('Files that the training must not see, e.g. "*_k14_*"; may be repeated.', metavar="PATTERN")
SEED = Option("Seed of the training.", least=0, most=2**32 - 1, metavar="N")
