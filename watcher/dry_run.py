"""What the daemon would do with what lies in a folder now (`--dry-run`); nothing is made or changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from ..engine.errors import DefocusError, InputError
from ..engine.model.card import Card
from ..engine.pipeline.batch import OWN_OUTPUT, is_done
from ..engine.pipeline.channel_groups import without
from ..engine.pipeline.channel_pattern import gather
from ..engine.pipeline.jobs import Job
from ..engine.pipeline.steps import stat_of
from .configuration.settings import FolderSettings
from .discovery.completeness import inspect
from .discovery.scanner import scan
from .journal import Journal
from .journal_entry import JournalEntry, journal_key


def plan(settings: FolderSettings, card: Card) -> Iterator[tuple[Path, str]]:
    """Each TIFF below the folder, by path, and what would become of it: "correct", "done", "ignored" or why not.

    Of channel files that belong together it is told what each goes with, or what is missing. What the daemon has
    quarantined stays so until it is written anew.

    Raises
    ------
    InputError
        The folder cannot be read.
    """
    folder = settings.acquisition
    try:
        paths = sorted(scan(folder))
    except OSError as error:
        raise InputError(folder, f"cannot be read ({error.strerror})", "check the path") from error
    verdicts: dict[Path, str] = {}
    jobs = []
    for path in paths:
        relative = path.relative_to(folder)
        try:
            stat = stat_of(path)
        except OSError:
            continue  # gone meanwhile
        if settings.wants(relative, stat[1], time.time()):
            jobs.append(Job(path, settings.output(relative), stat))
        else:
            verdicts[path] = "ignored"
    if settings.channels is not None:
        jobs, refused = gather(jobs, settings.channels, card.channels)
        verdicts |= {job.source: f"quarantined: {error}" for job, error in refused}
    quarantined = {entry.relative: entry for entry in Journal.peek(settings.out) if entry.model == settings.how(card)}
    for job in jobs:
        verdicts |= _known(job, settings, quarantined) or _verdicts(job, card)
    yield from ((path.relative_to(folder), verdicts[path]) for path in paths if path in verdicts)


def _known(job: Job, settings: FolderSettings, quarantined: dict[str, JournalEntry]) -> dict[Path, str]:
    """The reasons for which a job's files are quarantined already; {} if one of them is not, or has changed since."""
    reasons = {}
    for member in job.each():
        entry = quarantined.get(journal_key(member.source.relative_to(settings.acquisition)))
        if entry is None or entry.stat != member.stat:
            return {}
        reasons[member.source] = f"quarantined: {entry.reason}"
    return reasons


def _verdicts(job: Job, card: Card) -> dict[Path, str]:
    """What would become of a job's files."""
    sources = [member.source for member in job.each()]
    inspections = {source: inspect(source) for source in sources}
    if any(inspection.own_output for inspection in inspections.values()):
        return dict.fromkeys(sources, f"ignored: {OWN_OUTPUT}")
    try:
        if is_done(job, card):
            return dict.fromkeys(sources, "done")
    except DefocusError as error:
        return dict.fromkeys(sources, f"quarantined: {error}")
    problems = {
        source: inspection.damage for source, inspection in inspections.items() if inspection.damage is not None
    }
    if problems:
        first = next(iter(problems.values()))
        return {source: f"quarantined: {problems.get(source) or without(source, first)}" for source in sources}
    together = {source: " and ".join(other.name for other in sources if other != source) for source in sources}
    return {source: f"correct, together with {others}" if others else "correct" for source, others in together.items()}
