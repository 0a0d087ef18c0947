"""The family of errors a user may meet: each names the thing, the cause and the remedy on one line."""

from __future__ import annotations

import errno
import re
import unicodedata

_PLAIN = re.compile(r"[ -~]*")
_JOINERS = "\u200c\u200d"  # of Persian and Indic names, and of emoji: they change no order and end no line


class DefocusError(Exception):
    """What went wrong with which thing, and what the user can do about it.

    Parameters
    ----------
    thing : str
        The file, folder, model or backend concerned.
    cause : str
        Why it failed, in words a microscopist understands.
    remedy : str
        What to do now.
    """

    def __init__(self, thing: object, cause: str, remedy: str) -> None:
        self.thing, self.cause, self.remedy = str(thing), cause, remedy
        super().__init__(self.thing, cause, remedy)

    def __str__(self) -> str:
        return one_line(" ".join(f"{self.thing}: {self.cause}; {self.remedy}".split()))


def printable(text: str) -> str:
    """Text that can be printed and stored anywhere: bytes of file names that are not UTF-8 are shown as `\\udcXX`."""
    return text.encode("utf-8", "backslashreplace").decode()


def one_line(text: str) -> str:
    """Text as one line that is safe on a terminal, whoever wrote it: the name of a file, a model card, a library.

    Control characters (ESC, BEL, line breaks, C1), line and paragraph separators, marks that change the direction of
    writing, other invisible characters and what is no Unicode are shown as escapes. Everything else stays, and what
    has been escaped before.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS
    return character.encode("unicode_escape").decode() if hidden else character


def first_line(said: BaseException | str) -> str:
    """The first line of a library's error or message, cut to a readable length."""
    text = str(said).strip() or ("no reason given" if isinstance(said, str) else type(said).__name__)
    return text.splitlines()[0][:200]


def drop_frames(error: BaseException) -> None:
    """Let the frames go that an error and its causes passed through: one that is kept would keep their pixels."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__


def is_full(error: OSError) -> bool:
    """Whether the operating system says that a disk, or a user's share of it, is full."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class InputError(DefocusError):
    """The image, folder or argument given cannot be used."""


class ChangedError(InputError):
    """The input changed while it was being read: it is not complete yet, try again later."""


class StoppedError(DefocusError):
    """The work was left before its end because somebody asked for that: nothing is wrong with the file."""


class OutputError(DefocusError):
    """The result cannot be written (permission, full disk): the input is not to blame."""


class ModelError(DefocusError):
    """The model file or checkpoint cannot be used."""


class BackendError(DefocusError):
    """The runtime cannot be used or failed while running."""


class OutOfMemoryError(BackendError):
    """The device's memory does not hold the batch: a smaller tile may do."""


class MissingExtraError(DefocusError):
    """An optional part of defocus is not installed; the remedy is the install command."""

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        cause = f"not installed, but needed for {purpose}"
        super().__init__(module, cause, f'install it with: pip install "defocus[{extra}]"')
