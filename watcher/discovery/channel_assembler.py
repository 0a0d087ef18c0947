"""Partners: channel files wait here for the files that they belong together with.

Between the arrivals of a folder and the queue. A file whose partners are all there leaves at once, with them; one whose
partner does not come is quarantined after a while, with what is missing, and joins its partner when that comes later.
Partners that were dealt with before (done, then one of them written anew; quarantined, waiting) do not arrive again:
the journal is asked for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ...engine.errors import ErrorCode, InputError
from ...engine.pipeline.channel_groups import without
from ...engine.pipeline.channel_pattern import Pattern, fits, lone, too_many, twice
from ...engine.pipeline.steps import stat_of
from ..clock import SYSTEM_CLOCK, Clock
from ..configuration.settings import FolderSettings
from ..tracker import ChannelGroup, FileTracker, Group
from .arrival import Arrival
from .scanner import scan


class ChannelAssembler:
    """Where the files of one folder wait for their partners, in `tracker.groups`. Used by one thread."""

    def __init__(
        self,
        settings: FolderSettings,
        channels: int,
        find_known: Callable[[str, int], list[Arrival]] = lambda *_: [],
        once: bool = False,
        tracker: FileTracker | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """For a model of so many `channels`; `find_known` finds known files by path (see `FolderProcessor`)."""
        self._settings, self._pattern, self._channels, self._find = settings, settings.channels, channels, find_known
        self._groups = (tracker or FileTracker()).groups
        self._once, self._clock = once, clock
        self._seen: set[str] = set()
        # With `once` nobody waits for a microscope: only for files that are there and not yet complete.
        self._wait = 0.0 if once else settings.partner_wait
        self._interval = max(0.1, min(settings.timing.rescan, self._wait / 4))
        self._next_look = 0.0

    def take(self, arrival: Arrival) -> list[Arrival]:
        """What can go on now that this file has come: itself, or its group; nothing if it waits.

        Whatever cannot be corrected goes on with its `problem`.
        """
        pattern = self._pattern
        if pattern is None:
            return [arrival]
        place = pattern.match(arrival.relative)
        if place is None and arrival.problem is not None:
            return [arrival]
        alone = arrival.problem is None and self._alone(arrival.path, unreadable=place is None)
        if place is not None and alone:
            self._discard(place.group, place.channel)
        if place is None or alone:
            return [arrival if alone else replace(arrival, problem=lone(arrival.path, pattern, self._channels))]
        group = self._groups.setdefault(place.group, ChannelGroup())
        self._seen.add(place.channel)
        other = group.members.get(place.channel)
        outdated: list[Arrival] = []
        if other is not None and other.relative != arrival.relative:
            if os.path.exists(other.path):
                names = (other.path.name, arrival.path.name)
                return [replace(arrival, problem=twice(arrival.path, place.channel, names))]
            outdated = [other]  # it was renamed, or is no more: the pipeline finds that out
        group.members.pop(place.channel, None)  # what came last stands last
        group.members[place.channel] = arrival
        group.since = self._clock.monotonic()
        return outdated + self._leaving(place.group, place.channel)

    def overdue(self) -> list[Arrival]:
        """What goes on without anything having come: with partners that the journal now knows, or quarantined.

        To be called often, and only while the folder can be reached; it looks every few seconds.
        """
        now = self._clock.monotonic()
        if not self._groups or now < self._next_look:
            return []
        self._next_look = now + self._interval
        ready: list[Arrival] = []
        for key, group in list(self._groups.items()):
            ready += self._leaving(key, next(reversed(group.members)))
        late = [key for key, group in self._groups.items() if now - group.since >= self._wait]
        if late:
            try:
                present, left_out = self._present(late)
            except OSError:  # the folder has just gone: nobody can tell what is missing
                return ready
            for key in late:
                if not present[key]:
                    ready += self._missing(key, bool(left_out[key]))
        return ready

    def _alone(self, path: Path, unreadable: bool = False) -> bool:
        """Whether a file has all channels itself; `unreadable` is the answer for one that cannot be read."""
        try:
            return fits(path, self._channels)
        except InputError:  # the pipeline says what is wrong with it
            return unreadable

    def _leaving(self, key: Group, last: str) -> list[Arrival]:
        """Those of a group that can go on: all, or, with the reason, those that cannot; `last` came last."""
        group, pattern = self._groups[key], self._the_pattern
        by_channel = dict(group.members)
        newest = by_channel[last]
        if newest.problem is None and len(by_channel) < self._channels:
            for other in self._find(pattern.glob(key), group.newest_ns):
                place = pattern.match(other.relative)
                if place is None or place.group != key or self._alone(other.path):
                    continue
                mine = by_channel.setdefault(place.channel, other)
                if mine.relative != other.relative:
                    names = (mine.path.name, other.path.name)
                    return self._drop(key, last, twice(newest.path, place.channel, names))
        if len(by_channel) > self._channels:
            return self._drop(key, last, too_many(newest.path, pattern.order(by_channel), self._channels))
        bad = next((member.problem for member in by_channel.values() if member.problem is not None), None)
        if bad is not None:
            del self._groups[key]
            return [
                member if member.problem else replace(member, problem=without(member.path, bad))
                for member in group.members.values()
            ]
        if len(by_channel) < self._channels:
            return []
        del self._groups[key]
        seen = max(member.seen for member in group.members.values())
        first, *others = (replace(by_channel[channel], seen=seen) for channel in pattern.order(by_channel))
        return [replace(first, others=tuple(others))]

    def _drop(self, key: Group, channel: str, problem: InputError) -> list[Arrival]:
        """One of a group goes on with a problem of its own; the others wait on."""
        arrival = self._groups[key].members[channel]
        self._discard(key, channel)
        return [replace(arrival, problem=problem)]

    def _discard(self, key: Group, channel: str) -> None:
        """A file waits no longer, if it did."""
        group = self._groups.get(key)
        if group is not None:
            group.members.pop(channel, None)
            if not group.members:
                del self._groups[key]

    def _present(self, late: list[Group]) -> tuple[dict[Group, set[str]], dict[Group, set[str]]]:
        """The channels of groups of which a file lies in the folder: those that will come, those that are left out."""
        settings = self._settings
        present: dict[Group, set[str]] = {key: set() for key in late}
        left_out: dict[Group, set[str]] = {key: set() for key in late}
        for path in scan(settings.acquisition):
            relative = path.relative_to(settings.acquisition)
            place = self._the_pattern.match(relative)
            if place is None or place.group not in present or place.channel in self._groups[place.group].members:
                continue
            with suppress(OSError):  # it has gone meanwhile
                wanted = settings.wants(relative, stat_of(path)[1], self._clock.time())
                if not self._alone(path):
                    (present if wanted else left_out)[place.group].add(place.channel)
        return present, left_out

    def _missing(self, key: Group, left_out: bool) -> list[Arrival]:
        """Give a group up."""
        members = self._groups.pop(key).members
        lacking = self._the_pattern.lacking(key, members, self._channels, self._seen)
        if left_out:
            lacking += ", left out by --include, --exclude or --max-age"
        cause = f"waited {self._wait:g} s in vain for {lacking}"
        if self._once:
            cause = f"cannot be corrected without {lacking}"
        remedy = "it is corrected when that file comes"
        # One that has gone itself has no problem: the pipeline finds that out.
        return [
            replace(member, problem=InputError(member.path, cause, remedy, ErrorCode.NO_PARTNER))
            if os.path.exists(member.path)
            else member
            for member in members.values()
        ]

    @property
    def _the_pattern(self) -> Pattern:
        assert self._pattern is not None  # without one nothing waits here
        return self._pattern
