"""Channel files: which files of one channel each belong together, told by a pattern of their names.

A pattern is a file name with four kinds of places:

    {channel}        where the channel's number stands; channels are taken in the order of their numbers
    {channel=2,1}    the same, with the channels (numbers or names) given in the order in which the model takes them
    *                any text; it must be the same in all files of a group
    {ignore}         any text; it may be another in each file

Everything else must stand there as written. The ending (.tif, .ome.tif) may be left out. With a `/` the last folders
count too; all other folders must be the same. Where a pattern fits a name in several ways, `*` and {ignore} take as
much as they can: the last place that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ..errors import ErrorCode, InputError
from ..formats.dispatch import axes_of
from ..model.card import Card
from .inputs import SUFFIXES
from .jobs import Job

EXAMPLE = '"*_w{channel}*", or "*_w{channel=1,2}{ignore}"'

_PLACES = re.compile(r"(\*|\{[^{}]*\})")
_ENDING = rf"(?P<ending>(?i:(?:\.ome)?(?:{'|'.join(map(re.escape, SUFFIXES))})))"


@dataclass(frozen=True)
class Place:
    """Where a file stands: what its group has in common, and its channel."""

    group: tuple[str, ...]
    channel: str


@dataclass(frozen=True)
class Pattern:
    """A pattern of channel files; made by `Pattern.parse`.

    Attributes
    ----------
    text : str
        As the user wrote it.
    names : tuple of str
        The channels in the model's order, where the pattern names them; else empty.
    """

    text: str
    names: tuple[str, ...]
    _parts: tuple[str, ...]
    _regex: re.Pattern[str]
    _with_ending: bool

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read a pattern. Raises InputError if it makes no sense."""
        parts = tuple(part for part in _PLACES.split(text) if part)
        places = [part for part in parts if part.startswith("{channel")]
        for part in parts:
            if part[0] == "{" and part not in ("{channel}", "{ignore}") and not part.startswith("{channel="):
                raise _wrong(text, f"{part} is unknown", "use {channel}, {channel=1,2}, {ignore} and *")
        if any(brace in part for part in parts if part[0] not in "{*" for brace in "{}"):
            raise _wrong(text, "has an unmatched brace", f"write something like {EXAMPLE}")
        if len(places) != 1:
            cause = "has no {channel}" if not places else "has more than one {channel}"
            raise _wrong(text, cause, f"write something like {EXAMPLE}")
        names = _names(text, places[0])
        if not names and "{channel}{ignore}" in text:
            cause = "the number of the channel would run into the text to ignore"
            raise _wrong(text, cause, "name the channels: {channel=1,2}{ignore}")
        with_ending = text.lower().endswith(SUFFIXES)
        expression = "".join(_expression(parts, number, names) for number in range(len(parts)))
        return cls(text, names, parts, re.compile(expression + ("" if with_ending else _ENDING)), with_ending)

    def check(self, card: Card) -> None:
        """Raise InputError unless the model takes channel files by this pattern."""
        if card.channels == 1:
            cause = f'the model "{card.name}" takes one channel, so each file is corrected on its own'
            raise InputError("--channels", cause, "leave --channels out, or give a model of several channels")
        if self.names and len(self.names) != card.channels:
            cause = f'{self.text} names {len(self.names)} channels, the model "{card.name}" takes {card.channels}'
            raise InputError("--channels", cause, f"name {card.channels}, in the model's order")

    def match(self, path: PurePath) -> Place | None:
        """Where a file stands; None if its name does not fit."""
        depth = self.text.count("/") + 1
        name = "/".join(path.parts[-depth:])
        match = self._regex.fullmatch(name)
        if match is None:
            return None
        equal = [text for key, text in match.groupdict().items() if key != "channel"]
        return Place(("/".join(path.parts[:-depth]), *equal), match["channel"])

    def name(self, group: tuple[str, ...], channel: str) -> str:
        """The name that a group's file of this channel has, with `*` for what is ignored."""
        return self._fill(group, channel, str)

    def glob(self, group: tuple[str, ...]) -> str:
        """What the paths of a group's files look like, in the manner of SQLite's GLOB; others may look so too."""
        name = self._fill(group, "*", _escaped)
        return f"{_escaped(group[0])}/{name}" if group[0] else name

    def order(self, channels: Iterable[str]) -> list[str]:
        """Channels as the model takes them: as the pattern names them, else by their numbers."""
        return sorted(set(channels), key=self.names.index if self.names else lambda channel: (int(channel), channel))

    def lacking(self, group: tuple[str, ...], have: Collection[str], count: int, seen: Collection[str]) -> str:
        """Which channels a group lacks and what their files would be called, in words.

        Parameters
        ----------
        count : int
            How many channels the model takes.
        seen : collection of str
            The channels of all files so far: if the pattern names none, they may tell which are meant.
        """
        known = self.names or tuple(self.order({*seen, *have}))
        if len(known) == count:
            missing = [channel for channel in known if channel not in have]
            files = " and ".join(self.name(group, channel) for channel in missing)
            return f"channel{'s' if len(missing) > 1 else ''} {' and '.join(missing)} ({files})"
        more = count - len(set(have))
        return f"{more} more channel{'s' if more > 1 else ''} ({self.name(group, '*')})"

    def _fill(self, group: tuple[str, ...], channel: str, text: Callable[[str], str]) -> str:
        """The pattern with a group's texts and a channel in its places, and `*` for what is ignored."""
        equal = iter(group[1:])
        filled = []
        for part in self._parts:
            if part == "*":
                filled.append(text(next(equal)))
            elif part[0] == "{":
                filled.append("*" if part == "{ignore}" else channel)
            else:
                filled.append(text(part))
        return "".join(filled) + ("" if self._with_ending else text(next(equal)))


def fits(path: PurePath, channels: int) -> bool:
    """Whether a file has all the channels that a model takes itself. Raises InputError if it cannot be read."""
    axes, shape = axes_of(Path(path))
    return any(size == channels for letter, size in zip(axes, shape, strict=True) if letter in "CS")


def lone(path: PurePath, pattern: Pattern, channels: int) -> InputError:
    """Why a file that fits neither the model nor the pattern cannot be corrected."""
    cause = f"the model takes {channels} channels, and neither has this file so many nor does its name fit the pattern"
    return InputError(path, f"{cause} {pattern.text}", "change the pattern, or leave such files out")


def twice(path: object, channel: str, files: Sequence[object]) -> InputError:
    """Why a file cannot be corrected whose group has a channel twice."""
    cause = f"channel {channel} is there twice ({' and '.join(map(str, files))})"
    return InputError(path, cause, "keep one of them, or change the pattern")


def too_many(path: object, present: Sequence[str], channels: int) -> InputError:
    """Why a file cannot be corrected whose group has more channels than the model takes."""
    cause = f"channels {', '.join(present)} belong together, the model takes {channels}"
    return InputError(path, cause, f"name them in the pattern: {{channel={','.join(present[:channels])}}}")


def gather(jobs: Iterable[Job], pattern: Pattern, channels: int) -> tuple[list[Job], list[tuple[Job, InputError]]]:
    """Put the jobs of single files together that belong together, where all files are there already.

    Returns the jobs, each in the place of its first file, and the files that cannot be corrected, each with the reason:
    a channel is missing or there twice, or the name does not fit. A file that has all channels itself goes alone.
    """
    order: list[tuple[str, ...] | Job] = []
    groups: dict[tuple[str, ...], dict[str, list[Job]]] = {}
    refused: list[tuple[Job, InputError]] = []
    for job in jobs:
        place = pattern.match(job.source)
        try:
            alone = fits(job.source, channels)
        except InputError:
            alone = place is None  # the pipeline says what is wrong with it
        if alone:
            order.append(job)
        elif place is None:
            refused.append((job, lone(job.source, pattern, channels)))
        else:
            if place.group not in groups:
                order.append(place.group)
            groups.setdefault(place.group, {}).setdefault(place.channel, []).append(job)
    seen = {channel for group in groups.values() for channel in group}
    together: list[Job] = []
    for entry in order:
        if isinstance(entry, Job):
            together.append(entry)
            continue
        by_channel = groups[entry]
        files = [by_channel[channel][0] for channel in pattern.order(by_channel)]
        reasons = [
            (job, _reason(job, entry, by_channel, pattern, channels, seen))
            for jobs in by_channel.values()
            for job in jobs
        ]
        bad = [(job, reason) for job, reason in reasons if reason is not None]
        if bad:
            refused += bad
        else:
            together.append(replace(files[0], others=tuple(files[1:])))
    return together, refused


def _reason(
    job: Job,
    group: tuple[str, ...],
    by_channel: dict[str, list[Job]],
    pattern: Pattern,
    channels: int,
    seen: Collection[str],
) -> InputError | None:
    """Why a file of a group cannot be corrected; None if it can."""
    for channel, jobs in by_channel.items():
        if len(jobs) > 1:
            return twice(job.source, channel, [member.source.name for member in jobs])
    if len(by_channel) > channels:
        return too_many(job.source, pattern.order(by_channel), channels)
    if len(by_channel) < channels:
        cause = f"cannot be corrected without {pattern.lacking(group, by_channel, channels, seen)}"
        return InputError(
            job.source, cause, "add the missing file, or change the pattern of --channels", ErrorCode.NO_PARTNER
        )
    return None


def _names(text: str, place: str) -> tuple[str, ...]:
    if place == "{channel}":
        return ()
    names = tuple(name.strip() for name in place.removeprefix("{channel=").removesuffix("}").split(","))
    if "" in names or len(set(names)) != len(names) or len(names) < 2:
        raise _wrong(text, f"{place} does not name two channels or more, each once", "write {channel=1,2}")
    return names


def _expression(parts: Sequence[str], number: int, names: Sequence[str]) -> str:
    """One part of a pattern as a regular expression."""
    part = parts[number]
    if part == "*":
        return f"(?P<equal{number}>[^/]*)"
    if part == "{ignore}":
        return "[^/]*"
    if part[0] != "{":
        return re.escape(part)
    before, after = (parts[i] if 0 <= i < len(parts) else "" for i in (number - 1, number + 1))
    choices = [re.escape(name) for name in sorted(names, key=len, reverse=True)] if names else ["[0-9]+"]
    # A number counts as a whole, beside a text that could end or begin with digits.
    numbers = all(name.isdecimal() for name in names)
    start = "(?<![0-9])" if numbers and (before == "*" or (before and not names and before[0] == "{")) else ""
    end = "(?![0-9])" if numbers and after == "*" else ""
    return f"{start}(?P<channel>{'|'.join(choices)}){end}"


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


def _wrong(text: str, cause: str, remedy: str) -> InputError:
    return InputError(f"--channels {text}", cause, remedy)
