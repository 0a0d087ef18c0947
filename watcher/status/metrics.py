"""The state in the text format of Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

import shutil

from .statistics import BUCKETS, Histogram, State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics(state: State) -> str:
    """All metrics, each with its help and type."""
    lines: list[str] = []

    def family(name: str, kind: str, text: str, *samples: tuple[str, float]) -> None:
        lines.extend((f"# HELP defocus_{name} {text}", f"# TYPE defocus_{name} {kind}"))
        lines.extend(f"defocus_{name}{labels} {_number(value)}" for labels, value in samples)

    family("up", "gauge", "1 when all is well, 0 when /healthz is red.", ("", not state.health.problems()))
    family("queue_files", "gauge", "Files found and not yet taken.", ("", state.queued))
    waiting = state.waiting()
    if waiting is not None:
        family("waiting_files", "gauge", "Files that wait for a partner, another channel's file.", ("", waiting))
    outcomes = [(_labels(outcome=kind), state.counts[kind]) for kind in ("done", "skipped", "retry", "quarantined")]
    family("files_total", "counter", "Files dealt with.", *outcomes)
    reasons = [(_labels(reason=kind), count) for kind, count in sorted(state.failed.items())]
    family("failed_files_total", "counter", "Files quarantined, by reason.", *reasons)
    family("read_bytes_total", "counter", "Bytes of the files that were corrected.", ("", state.bytes))
    family("latency_seconds", "histogram", "From the close of a file to its corrected file.")
    lines.extend(_histogram("latency_seconds", state.latency))
    family("stage_seconds", "histogram", "Time of each stage of a file.")
    for stage, histogram in sorted(state.stages.items()):
        lines.extend(_histogram("stage_seconds", histogram, stage=stage))
    point = state.focus() or {}
    for key, text in (("focus_in", "Focus score of the last input."), ("focus_out", "Focus score of the last output.")):
        family(f"{key}_cycles_per_pixel", "gauge", text, *([("", point[key])] if point.get(key) is not None else []))
    blur = [("", point["blur_px"])] if point.get("blur_px") is not None else []
    family("blur_pixels", "gauge", "Blur between the last input and its output.", *blur)
    free = []
    for one in state.folders:
        try:
            free.append((_labels(folder=str(one.out)), float(shutil.disk_usage(one.out).free)))
        except OSError:
            continue
    family("disk_free_bytes", "gauge", "Room on the disk of each output folder.", *free)
    family("backend_info", "gauge", "What runs the model.", (_labels(backend=state.backend, model=state.model), 1))
    return "\n".join(lines) + "\n"


def _histogram(name: str, histogram: Histogram, **labels: str) -> list[str]:
    found = [
        f"defocus_{name}_bucket{_labels(**labels, le=f'{bound:g}')} {count}"
        for bound, count in zip(BUCKETS, histogram.counts, strict=True)
    ]
    found.append(f"defocus_{name}_bucket{_labels(**labels, le='+Inf')} {histogram.count}")
    found.append(f"defocus_{name}_sum{_labels(**labels)} {_number(histogram.total)}")
    found.append(f"defocus_{name}_count{_labels(**labels)} {histogram.count}")
    return found


def _number(value: float) -> str:
    """In full: 1234567, not 1.23457e+06, which would stand still for ten counts."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _labels(**labels: str) -> str:
    if not labels:
        return ""
    escaped = (
        f'{name}="{value}"'
        for name, raw in labels.items()
        for value in [raw.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")]
    )
    return "{" + ",".join(escaped) + "}"
