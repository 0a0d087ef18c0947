"""The state in the text format of Prometheus (exposition format 0.0.4).

The label `folder` is an acquisition folder; `defocus_folder_info` tells its name.
"""

from __future__ import annotations

from collections.abc import Callable

from ...engine.errors import printable
from .folder_statistics import BUCKETS, FolderStatistics, Histogram
from .statistics import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES = ("done", "skipped", "retry", "quarantined")


def metrics(state: State) -> str:
    """All metrics, each with its help and type."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str, *samples: tuple[str, float | None]) -> None:
        lines.extend((f"# HELP defocus_{name} {text}", f"# TYPE defocus_{name} {kind}"))
        lines.extend(f"defocus_{name}{labels} {_number(value)}" for labels, value in samples if value is not None)

    def each(value: Callable[[FolderStatistics], float | None]) -> list[tuple[str, float | None]]:
        return [(_labels(folder=_folder(folder)), value(folder)) for folder in folders]

    folders = state.microscopes
    family("up", "gauge", "1 if healthy, 0 if /healthz reports a problem.", ("", not state.health.problems()))
    family("queue_files", "gauge", "Files that wait for the engine.", ("", state.queued))
    family("backlog_files", "gauge", "Files that were there at the start and wait.", *each(lambda folder: folder.left))
    if any(folder.settings.channels is not None for folder in folders):
        family("waiting_files", "gauge", "Files that wait for a partner.", *each(lambda folder: folder.waiting))
    outcomes = [
        (_labels(folder=_folder(folder), outcome=kind), folder.counts[kind]) for folder in folders for kind in OUTCOMES
    ]
    family("files_total", "counter", "Files processed since the start, by outcome.", *outcomes)
    reasons = [
        (_labels(folder=_folder(folder), reason=kind), count)
        for folder in folders
        for kind, count in sorted(folder.failed.items())
    ]
    family("failed_files_total", "counter", "Files quarantined since the start, by reason.", *reasons)
    family("quarantined_files", "gauge", "Files that are quarantined.", *each(lambda folder: len(folder.failures)))
    family(
        "corrected_files",
        "gauge",
        "Files that were ever corrected.",
        *each(lambda folder: folder.before + folder.counts["done"]),
    )
    family("read_bytes_total", "counter", "Bytes of the files that were corrected.", *each(lambda folder: folder.bytes))
    latency = "Time from the close of a file to its corrected copy; none of files that were there at the start."
    family("latency_seconds", "histogram", latency)
    for folder in folders:
        lines.extend(_histogram("latency_seconds", folder.latency, folder=_folder(folder)))
    family("stage_seconds", "histogram", "Time of each stage of a file.")
    for folder in folders:
        for stage, histogram in sorted(folder.stages.items()):
            lines.extend(_histogram("stage_seconds", histogram, folder=_folder(folder), stage=stage))
    family(
        "focus_in_cycles_per_pixel",
        "gauge",
        "Focus score of the last input.",
        *each(lambda folder: _last(folder, "focus_in")),
    )
    family(
        "focus_out_cycles_per_pixel",
        "gauge",
        "Focus score of the last output.",
        *each(lambda folder: _last(folder, "focus_out")),
    )
    family(
        "blur_pixels",
        "gauge",
        "Blur between the last input and its output.",
        *each(lambda folder: _last(folder, "blur_px")),
    )
    family(
        "drifted",
        "gauge",
        "1 when the last files are blurred beyond --drift-px.",
        *each(lambda folder: folder.drift.drifted),
    )
    family(
        "disk_free_bytes", "gauge", "Free space on the disk of each output folder.", *each(lambda folder: folder.free())
    )
    names = [
        (_labels(folder=_folder(folder), name=folder.microscope.name, output=str(folder.settings.out)), 1)
        for folder in folders
    ]
    family("folder_info", "gauge", "Watched folder, its name and its output folder.", *names)
    family("backend_info", "gauge", "Backend and model.", (_labels(backend=state.backend, model=state.model), 1))
    return "\n".join(lines) + "\n"


def _folder(statistics: FolderStatistics) -> str:
    return str(statistics.settings.acquisition)


def _last(statistics: FolderStatistics, key: str) -> float | None:
    """The median over the planes of the last file."""
    values = sorted(plane[key] for plane in statistics.last_planes if plane.get(key) is not None)
    return values[len(values) // 2] if values else None


def _histogram(name: str, histogram: Histogram, **labels: str) -> list[str]:
    lines = [
        f"defocus_{name}_bucket{_labels(**labels, le=f'{bound:g}')} {count}"
        for bound, count in zip(BUCKETS, histogram.counts, strict=True)
    ]
    lines.append(f"defocus_{name}_bucket{_labels(**labels, le='+Inf')} {histogram.count}")
    lines.append(f"defocus_{name}_sum{_labels(**labels)} {_number(histogram.total)}")
    lines.append(f"defocus_{name}_count{_labels(**labels)} {histogram.count}")
    return lines


def _number(value: float) -> str:
    """In full: 1234567, not 1.23457e+06, which would stand still for ten counts."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _labels(**labels: str) -> str:
    escaped = (
        f'{name}="{value}"'
        for name, raw in labels.items()
        for value in [printable(raw).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")]
    )
    return "{" + ",".join(escaped) + "}"
