"""Files that belong together, one channel each: joined for the model, and each written as a file of its own again.

They are one item of work: all are written, or all have an error. Killed between two of their outputs, the group is not
done (`batch.is_done`), and the next start makes it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import ChangedError, DefocusError, ErrorCode, InputError
from ..image.axes import own_channels
from ..image.memmap import is_disk_backed
from ..image.plane_statistics import PlaneStatistics
from ..tiff.read import TiffImage
from .item import PipelineItem
from .jobs import Job, Outcome, version_record


def joined(job: Job, parts: Sequence[PipelineItem]) -> PipelineItem:
    """What was read of a group's files as one item: its stack has a new first axis C, in the order of channels.

    If a file could not be read, or does not go with the others, the item has the error, and every file its own reason.
    """
    outcomes = tuple(part.outcome for part in parts)
    error = _first_error(outcomes)
    if error is None:
        error = next((_several(part) for part in parts if len(part.images) > 1), None)
    stacks = [image for part in parts for image in part.images]
    if error is None:
        error = _misfit(job, stacks)
    if error is not None:
        failed = replace(outcomes[0], job=job, others=outcomes[1:])
        return replace(parts[0], outcome=_blamed(failed, error), images=())
    first = stacks[0]
    shape = (len(stacks), *first.data.shape)
    data = parts[0].place(shape, first.data.dtype)
    for plane, stack in zip(data, stacks, strict=True):
        plane[...] = stack.data
    held = 0 if is_disk_backed(data) else data.nbytes + sum(part.nbytes for part in parts)
    # The parts look into the one array: neither are their pixels held twice, nor their planes measured twice.
    statistics = PlaneStatistics()
    views = tuple(
        replace(part, images=(replace(stack, data=plane, statistics=statistics),))
        for part, stack, plane in zip(parts, stacks, data, strict=True)
    )
    seconds = {"read": sum(outcome.seconds.get("read", 0.0) for outcome in outcomes)}
    outcome = replace(outcomes[0], job=job, seconds=seconds, others=outcomes[1:])
    stack = replace(first, data=data, axes=f"C{first.axes}", statistics=statistics)
    return replace(parts[0], outcome=outcome, images=(stack,), parts=views, nbytes=held)


def written(item: PipelineItem, write: Callable[[PipelineItem], Outcome]) -> Outcome:
    """Write a restored group file by file; after an error nothing more is written, and all have it."""
    parts = _split(item)
    outcomes = [part.outcome for part in parts]
    error = None
    for number, part in enumerate(parts):
        outcomes[number] = write(part)
        if (error := outcomes[number].error) is not None:
            break
    whole = replace(outcomes[0], job=item.outcome.job, others=tuple(outcomes[1:]))
    return whole if error is None else whole.failed(error)


def without(source: object, partner: DefocusError) -> InputError:
    """Why a file that is good itself cannot be corrected: its partner cannot be used."""
    cause = f"cannot be corrected without its partner ({partner.thing}: {partner.cause})"
    return InputError(source, cause, "repair that file, and both are done", ErrorCode.NO_PARTNER)


def _split(item: PipelineItem) -> list[PipelineItem]:
    """A restored group as one item a file, each with its share of the engine's time and the versions of all files."""
    notes = {"channels": [version_record(part.outcome.job.source, part.version) for part in item.parts]}
    share = item.outcome.seconds.get("infer", 0.0) / len(item.parts)
    return [
        replace(
            part,
            restored=(restored,),
            notes=notes,
            outcome=replace(part.outcome, seconds=part.outcome.seconds | {"infer": share}),
        )
        for part, restored in zip(item.parts, item.restored[0], strict=True)
    ]


def _several(part: PipelineItem) -> InputError:
    cause = f"holds {len(part.images)} images instead of one"
    return InputError(part.outcome.job.source, cause, "save each as a file of its own")


def _first_error(outcomes: Sequence[Outcome]) -> DefocusError | None:
    """The error that decides: a file that has changed is no bad file, the group is found again."""
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    return next((error for error in errors if isinstance(error, ChangedError)), errors[0] if errors else None)


def _blamed(outcome: Outcome, error: DefocusError) -> Outcome:
    """A group's outcome with an error: bad files keep their own reason, good ones are told whose it is."""
    whole = all(part.error is None for part in outcome.each())
    if whole or isinstance(error, ChangedError) or not isinstance(error, InputError):
        return outcome.failed(error)

    def blamed(part: Outcome) -> Outcome:
        return replace(part, error=part.error or without(part.job.source, error))

    return replace(blamed(outcome), others=tuple(blamed(other) for other in outcome.others))


def _misfit(job: Job, stacks: Sequence[TiffImage]) -> InputError | None:
    """Why the stacks cannot be the channels of one image."""
    for member, stack in zip(job.each(), stacks, strict=True):
        if (count := own_channels(stack.axes, stack.data.shape)) > 1:
            cause = f"has {count} channels itself, a file of a group has one"
            return InputError(member.source, cause, "leave it out of the pattern of --channels")
    first = stacks[0]
    for member, stack in zip(job.others, stacks[1:], strict=True):
        for word, mine, its in (
            ("shape", first.data.shape, stack.data.shape),
            ("type", first.data.dtype, stack.data.dtype),
            ("axes", first.axes, stack.axes),
        ):
            if mine != its:
                cause = f"belong together, but differ in {word} ({mine} and {its})"
                remedy = "record all channels alike, or change the pattern of --channels"
                return InputError(f"{job.source} and {member.source}", cause, remedy)
    return None
