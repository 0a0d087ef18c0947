"""The family of errors a user may meet: each names the thing, the cause and the remedy on one line."""

from __future__ import annotations

import errno
import re
import unicodedata
from enum import StrEnum
from typing import ClassVar

from .installation import install_command, outdated

_LONGEST = 8192  # characters
_NO_THREAD = ("start new thread", "pthread_create failed")  # what Python says, and ONNX Runtime
_PLAIN = re.compile(r"[ -~]*")
_JOINERS = "\u200c\u200d"  # of Persian and Indic names, and of emoji: they change no order and end no line


class ErrorCode(StrEnum):
    """What went wrong, for programs: metrics, journal and JSON hold these values, and nothing reads the prose."""

    MISSING = "missing"  # no such file or folder
    PERMISSION = "permission"
    UNREADABLE = "unreadable"  # the disk, the share, or no file at all
    NOT_TIFF = "not_tiff"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    INCOMPLETE = "incomplete"  # still being written, as far as can be told
    DAMAGED = "damaged"
    CHANGED = "changed"  # while it was read
    UNSUPPORTED = "unsupported"  # pixel type, axes, layout, compression
    NOT_FINITE = "not_finite"  # NaN or infinity among the pixels
    NO_PARTNER = "no_partner"  # a file of one channel without those that belong to it
    DISK_FULL = "disk_full"
    OCCUPIED = "occupied"  # what lies at the output's path was not made by defocus
    UNWRITABLE = "unwritable"
    INPUT = "input"  # any other fault of what was given: an argument, a setting, an image
    MODEL = "model"
    BACKEND = "backend"
    MEMORY = "memory"
    SHORTAGE = "shortage"  # of file descriptors or threads
    MISSING_EXTRA = "missing_extra"
    OLD_PACKAGE = "old_package"
    STOPPED = "stopped"
    INTERNAL = "internal"


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
    code : ErrorCode, optional
        The same for programs; by default that of the class.
    """

    default_code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(self, thing: object, cause: str, remedy: str, code: ErrorCode | None = None) -> None:
        self.thing, self.cause, self.remedy = str(thing), cause, remedy
        self.code = self.default_code if code is None else code
        super().__init__(self.thing, cause, remedy)

    def __str__(self) -> str:
        thing, cause, remedy = (_cut(text) for text in (self.thing, self.cause, self.remedy))
        return one_line(" ".join(f"{thing}: {cause}; {remedy}".split()))


def _cut(text: str) -> str:
    """Text that is no longer than two paths: what a file says of itself may have megabytes."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 4]}..."


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


def first_line(message: BaseException | str) -> str:
    """The first line of a library's error or message, cut to a readable length."""
    text = str(message).strip() or ("no reason given" if isinstance(message, str) else type(message).__name__)
    return text.splitlines()[0][:200]


def drop_frames(error: BaseException) -> None:
    """Let the frames go that an error and its causes passed through: one that is kept would keep their pixels."""
    current: BaseException | None = error
    while current is not None:
        current.__traceback__ = None
        current = current.__cause__ or current.__context__


def shortage(error: BaseException) -> tuple[str, str] | None:
    """What the computer is short of, and the remedy, if something failed for that: no fault of a file or of ours."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EMFILE, errno.ENFILE):
        return "not enough file descriptors", "raise the limit (ulimit -n, LimitNOFILE= of a service)"
    unmapped = isinstance(error, ImportError) and "failed to map segment" in str(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or unmapped:
        return "not enough memory", "use a smaller --tile or free memory"
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_THREAD):
        return "not enough threads", "raise the limit (ulimit -u, TasksMax= of a service)"
    return None


def shortage_error(
    thing: object, purpose: str, error: BaseException, kind: type[DefocusError] | None = None
) -> DefocusError | None:
    """The same as an error of a kind: `purpose` says what it would have been needed for ("to open it")."""
    if (missing := shortage(error)) is None:
        return None
    code = ErrorCode.MEMORY if "memory" in missing[0] else ErrorCode.SHORTAGE
    return (kind or DefocusError)(thing, f"{missing[0]} {purpose}", missing[1], code)


def is_full(error: OSError) -> bool:
    """Whether the operating system says that a disk, or a user's share of it, is full."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


class InputError(DefocusError):
    """The image, folder or argument given cannot be used."""

    default_code = ErrorCode.INPUT


class ChangedError(InputError):
    """The input changed while it was being read: it is not complete yet, try again later."""

    default_code = ErrorCode.CHANGED


class StoppedError(DefocusError):
    """The work was left before its end because somebody asked for that: nothing is wrong with the file."""

    default_code = ErrorCode.STOPPED


class OutputError(DefocusError):
    """The result cannot be written (permission, full disk): the input is not to blame."""

    default_code = ErrorCode.UNWRITABLE


class ModelError(DefocusError):
    """The model file or checkpoint cannot be used."""

    default_code = ErrorCode.MODEL


class BackendError(DefocusError):
    """The runtime cannot be used or failed while running."""

    default_code = ErrorCode.BACKEND


class OutOfMemoryError(BackendError):
    """The device's memory does not hold the batch: a smaller tile may do."""

    default_code = ErrorCode.MEMORY


class MissingExtraError(DefocusError):
    """An optional part of defocus is not installed; the remedy is the install command.

    `extra` is "" for a package that no extra brings.
    """

    default_code = ErrorCode.MISSING_EXTRA

    def __init__(self, module: str, extra: str, purpose: str) -> None:
        cause = f"not installed, but needed for {purpose}"
        super().__init__(
            module, cause, f"install it with: {install_command(extra) if extra else f'pip install {module}'}"
        )


class OldPackageError(DefocusError):
    """A package that defocus needs is too old for it; the remedy is the command that upgrades it."""

    default_code = ErrorCode.OLD_PACKAGE


def old_packages() -> OldPackageError | None:
    """Which of the packages that defocus cannot do without are too old, None if all are new enough."""
    if not (old := outdated()):
        return None
    have = ", ".join(f"{name} {version}" for name, (version, _) in old.items())
    need = ", ".join(f"{name} {least}" for name, (_, least) in old.items())
    upgrade = " ".join(f'"{name}>={least}"' for name, (_, least) in old.items())
    return OldPackageError(have, f"too old, defocus needs {need} or newer", f"upgrade with: pip install {upgrade}")
