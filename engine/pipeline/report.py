"""The report of a run: a page that people leaf through, sorted by doubt, and a table, a row a plane.

Both are made from the results of a run, or from outputs that are there, which say themselves how they were made.
"""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import DefocusError, InputError, one_line
from ..files.atomic import commit, output_error
from ..files.walk import walk
from ..formats.dispatch import read_optics, read_provenance
from ..formats.names import input_path, is_store
from ..formats.preview import previews
from ..quality.overview import FileOverview, overview, plane_report, verdict_of
from ..quality.report import summary
from ..tiff.optics import RecordedOptics
from .batch import Result, Status
from .inputs import SUFFIXES
from .jobs import version_record
from .steps import stat_of

HTML, CSV = "report.html", "report.csv"
PICTURED = 200  # files, the most doubtful, that have pictures: 30 kB each
THUMBNAIL = 240  # px
LONGEST = 10_000  # planes of a file that are listed one by one
_COLUMNS = (
    "file", "status", "plane", "verdict", "kept", "focus_in", "focus_out", "blur_px", "blur_um", "fidelity",
    "max_local_residual", "polarity", "doubt", "error",
)  # fmt: skip
_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.4 system-ui,sans-serif;margin:1rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid #8886;"
    "vertical-align:top}td:first-child{min-width:7rem}td:first-child,.failed,h1{overflow-wrap:anywhere}"
    "img{display:block;width:8.3rem;max-width:18vw;background:#000}"
    ".n{text-align:right;white-space:nowrap}.doubtful,.failed{font-weight:bold}"
)


@dataclass(frozen=True)
class ReportedFile:
    """A file of the report.

    Attributes
    ----------
    name : str
        The output below the folder of the outputs.
    status : str
        "done", "skipped" or "failed".
    planes : list of dict, or dict
        The reports of its planes, or of more than 64 what they come to, as `quality.report.summary` gives them.
    before, after : Path or None
        The pictures; None where they are not at hand.
    """

    name: str
    status: str
    planes: list[dict[str, Any]] | dict[str, Any] = field(default_factory=list)
    before: Path | None = None
    after: Path | None = None
    optics: RecordedOptics = field(default_factory=RecordedOptics)
    error: str = ""

    @property
    def known(self) -> FileOverview:
        return overview(self.planes)


class Report:
    """Collects files and writes both reports into a folder.

    Raises OutputError if the folder cannot be made, which is better known before a run than after it.
    """

    def __init__(self, folder: Path, out: Path) -> None:
        self._folder, self._out = folder, out
        self.files: list[ReportedFile] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(folder, error) from error

    def add(self, result: Result) -> None:
        """Take a result of the run in."""
        target = result.job.target
        name = target.relative_to(self._out).as_posix() if target.is_relative_to(self._out) else target.name
        if result.status is Status.FAILED:
            self.files.append(ReportedFile(name, "failed", error=str(result.error or "")))
        elif result.outcome is not None:  # all planes, also where the file itself holds only their sum
            planes = [report.as_dict() for report in result.outcome.reports]
            listed = planes if len(planes) <= LONGEST else summary(result.outcome.reports)
            self.files.append(ReportedFile(name, "done", listed, result.job.source, target, _optics(target)))
        else:
            self.files.append(_from_file(target, name, "skipped", result.job.source))

    def write(self) -> tuple[Path, Path]:
        """Write the page and the table; where they are. Raises OutputError."""
        paths = self._folder / HTML, self._folder / CSV
        self.files.sort(key=_order)
        with commit(paths[1]) as part, open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            for entry in self.files:
                writer.writerows([row.get(column) for column in _COLUMNS] for row in _rows(entry))
        with commit(paths[0]) as part, open(part, "w", encoding="utf-8") as file:
            file.writelines(_page(self.files, self._out))
        return paths


def of_outputs(out: Path, sources: Path | None = None) -> Iterator[ReportedFile]:
    """What the outputs below a folder say of themselves; what defocus did not make is left out.

    `sources` is where their inputs lie, for the pictures before; by default that of a daemon with its usual output,
    ACQ for ACQ_corrected. An input that has changed since is not shown. Raises InputError if there is no such folder.
    """
    if not out.is_dir():
        raise InputError(out, "no such folder", "give the folder of the corrected files")
    if sources is None and out.resolve().name.endswith("_corrected"):
        sources = out.resolve().with_name(out.resolve().name.removesuffix("_corrected"))
    for root, folders, names in walk(out, lambda error: None):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        stores = [name for name in folders if is_store(Path(name))]
        folders[:] = [name for name in folders if name not in stores]
        for name in sorted([*names, *stores]):
            if (name.lower().endswith(SUFFIXES) or name in stores) and not name.startswith("."):
                path = Path(root) / name
                relative = path.relative_to(out)
                try:
                    record = read_provenance(path)
                except DefocusError as error:
                    yield ReportedFile(relative.as_posix(), "failed", error=str(error))
                    continue
                if record is not None:
                    source = sources / input_path(relative) if sources is not None else None
                    yield _of_record(record, path, relative.as_posix(), "done", source)


def _from_file(target: Path, name: str, status: str, source: Path | None) -> ReportedFile:
    """What an output says of itself."""
    try:
        return _of_record(read_provenance(target) or {}, target, name, status, source)
    except DefocusError as error:
        return ReportedFile(name, "failed", error=str(error))


def _of_record(record: Mapping[str, Any], target: Path, name: str, status: str, source: Path | None) -> ReportedFile:
    planes = record.get("planes")
    planes = planes if isinstance(planes, list | dict) else []
    try:
        same = source is not None and version_record(source, stat_of(source)) == record.get("source")
    except OSError:
        same = False
    return ReportedFile(name, status, planes, source if same else None, target, _optics(target))


def _optics(path: Path) -> RecordedOptics:
    try:
        return read_optics(path)
    except DefocusError:
        return RecordedOptics()


def _order(entry: ReportedFile) -> tuple[int, float, str]:
    """Failures first, then by doubt, then what cannot be judged."""
    doubt = entry.known.doubt
    return (0 if entry.status == "failed" else 1 if doubt is not None else 2, -(doubt or 0.0), entry.name)


def _rows(entry: ReportedFile) -> Iterator[dict[str, Any]]:
    """A row a plane; of a file that only holds the sum of its planes, a row with the medians and the largest doubt."""
    base = {"file": _cell(entry.name), "status": entry.status, "error": _cell(entry.error)}
    if isinstance(entry.planes, dict):
        known = entry.known
        yield base | {
            "plane": f"all {known.planes}", "verdict": known.verdict, "kept": known.kept, "blur_px": known.blur_px,
            "blur_um": _short(entry.optics.blur_um(known.blur_px)), "fidelity": known.fidelity,
            "doubt": _short(known.doubt),
        }  # fmt: skip
    elif not entry.planes:
        yield base
    for number, plane in enumerate(entry.planes if isinstance(entry.planes, list) else ()):
        report = plane_report(plane)
        yield base | {
            "plane": number, "verdict": _cell(verdict_of(plane)), "kept": int(report.copied),
            "focus_in": report.focus_in, "focus_out": report.focus_out, "blur_px": report.blur_px,
            "blur_um": _short(entry.optics.blur_um(report.blur_px)), "fidelity": report.fidelity,
            "max_local_residual": report.max_local_residual, "polarity": report.polarity,
            "doubt": _short(report.doubt),
        }  # fmt: skip


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    text = one_line(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _page(files: list[ReportedFile], out: Path) -> Iterable[str]:
    counts = {status: sum(entry.status == status for entry in files) for status in ("done", "skipped", "failed")}
    doubtful = sum(entry.known.doubtful > 0 for entry in files)
    kept = sum(entry.known.verdict == "kept" for entry in files)
    title = html.escape(one_line(str(out)))
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        'style-src \'unsafe-inline\'"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>defocus: {title}</title><style>{_STYLE}</style></head><body><main><h1>{title}</h1>"
        f"<p>{len(files)} files: {doubtful} doubtful, {kept} kept as they were, {counts['failed']} failed. "
        f"Sorted by doubt: above 1, look at the image before you use it. The table of all planes is {CSV}. "
        f"Made by defocus {__version__}.</p>"
        "<table><thead><tr><th>file</th><th>before</th><th>after</th><th>verdict</th><th>doubt</th><th>blur</th>"
        "<th>fidelity</th><th>kept</th></tr></thead><tbody>\n"
    )
    pictured = 0
    for entry in files:
        known, pictures = entry.known, ("", "")
        if entry.status != "failed" and pictured < PICTURED:
            pictures = _pictures(entry)
            pictured += 1
        name = html.escape(one_line(entry.name))
        if entry.status == "failed":
            yield f'<tr><td>{name}</td><td colspan="7" class="failed">{html.escape(one_line(entry.error))}</td></tr>\n'
            continue
        um = entry.optics.blur_um(known.blur_px)
        blur = _text(known.blur_px, 1, " px") + (f"<br>{_text(um, 2, ' µm')}" if um is not None else "")
        yield (
            f"<tr><td>{name}</td><td>{pictures[0]}</td><td>{pictures[1]}</td>"
            f'<td class="{"doubtful" if known.doubtful else ""}">{known.verdict}</td>'
            f'<td class="n">{_text(known.doubt)}</td><td class="n">{blur}</td>'
            f'<td class="n">{_text(known.fidelity)}</td>'
            f'<td class="n">{known.kept} of {known.planes}</td></tr>\n'
        )
    rest = len(files) - counts["failed"] - pictured
    yield "</tbody></table>" + (f"<p>The last {rest} files have no pictures.</p>" if rest > 0 else "")
    yield "</main></body></html>\n"


def _pictures(entry: ReportedFile) -> tuple[str, str]:
    """Both pictures as HTML; "" for one that is not at hand."""
    if entry.after is None:
        return "", ""
    try:
        before, after = previews(entry.before or entry.after, entry.after, THUMBNAIL)
    except (DefocusError, MemoryError, ValueError):
        return "", ""
    alt = html.escape(one_line(entry.name), quote=True)
    images = (
        f'<img alt="{alt} {when}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for when, png in (("before", before), ("after", after))
    )
    first, second = images
    return (first if entry.before is not None else "not found"), second


def _text(value: float | None, places: int = 3, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{places}f}{unit}"


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
