"""A file that has arrived: complete, or bad for good."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ...engine.errors import InputError
from ...engine.pipeline.steps import Stat
from ..journal_entry import journal_key


@dataclass(frozen=True)
class Arrival:
    """A file that is complete, or that is bad (`problem`) and has stayed so beyond our patience.

    Attributes
    ----------
    relative : Path
        Path below the acquisition folder.
    stat : (size in bytes, mtime in ns)
        The version that was found complete.
    seen : float
        Monotonic time at which its writer closed it, or it last changed as far as we know.
    digest : str
        See `version.digest`; "" if it could not be read.
    own_output : bool
        Whether defocus made it.
    recalled : bool
        It has not come now: it was dealt with before, and comes along for the sake of its partner.
    others : tuple of Arrival
        The files that belong together with it: it holds the first channel, they the next ones, in order.
    """

    path: Path
    relative: Path
    stat: Stat
    seen: float
    problem: InputError | None = None
    digest: str = ""
    own_output: bool = False
    recalled: bool = False
    others: tuple[Arrival, ...] = ()

    def each(self) -> tuple[Arrival, ...]:
        """Its files one by one, in the order of channels."""
        return (replace(self, others=()), *self.others)

    @property
    def name(self) -> str:
        """`relative` as it is shown and written down."""
        return journal_key(self.relative)
