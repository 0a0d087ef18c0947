"""A pretend acquisition, the real defocus-watch, and a picture: `make demo` or `make demo ACQ=/path/to/tiffs`.

Without ACQ a focus drift is played: specimens drawn by our own code, each frame further out of focus than the last,
written as 16-bit TIFF at a steady rate into demo/acquisition. With ACQ the files of a folder are replayed instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from defocus.training.evaluation.heldout import CAMERA, OPTICS, PEAK_COUNTS
from defocus.training.evaluation.metrics import psnr, ssim
from defocus.training.physics.optics import defocus
from defocus.training.physics.specimen import draw_cells

HERE = Path(__file__).resolve().parent
SHAPE = (520, 696)
DRIFT_UM = (0, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31, 34)
PICTURED_UM = (4, 10, 22)  # in the picture: a drift that happens
CROP, ZOOM = 300, 64  # px of a panel and of the part that is shown twice as large
PATIENCE_S = 60.0  # for the first file, whose wait includes loading the model, and for any other


@dataclass(frozen=True)
class Frame:
    """One file of the acquisition: what is written, and the sharp truth where it is known."""

    name: str
    data: np.ndarray | None  # None: copy `source` as it is
    source: Path | None = None
    truth: np.ndarray | None = None
    z_um: float | None = None


@dataclass
class Arrival:
    """When a frame's writer closed it, and how long until the corrected file was there."""

    frame: Frame
    closed: float
    latency: float | None = None


def drifting(seed: int = 11) -> Iterator[Frame]:
    """Frames of a microscope that loses focus, one of each distance in DRIFT_UM."""
    rng = np.random.default_rng(seed)
    for index, z in enumerate(DRIFT_UM):
        cells = draw_cells(SHAPE, rng)
        sharp = cells * (PEAK_COUNTS / np.percentile(cells, 99.9))
        seen = CAMERA.expose(defocus(sharp, OPTICS, z), rng)
        yield Frame(f"frame_{index:03d}_z{z:02d}um.tif", seen, truth=sharp + CAMERA.offset, z_um=z)


def replayed(folder: Path, limit: int = 40) -> Iterator[Frame]:
    """The TIFF files of a folder, at most `limit` of them."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".tif", ".tiff") and path.is_file())
    if not paths:
        sys.exit(f"demo: {folder}: holds no TIFF file; name a folder that does with ACQ=/path/to/tiffs")
    for path in paths[:limit]:
        yield Frame(path.name, None, source=path)


def write(frame: Frame, folder: Path) -> float:
    """Write a frame as an acquisition program would; return the moment at which it was closed."""
    path = folder / frame.name
    if frame.source is not None:
        shutil.copyfile(frame.source, path)
    else:
        # As BBBC006 has them: 16 bits, LZW, in strips.
        per_um = 1e4 / OPTICS.pixel_um
        tifffile.imwrite(
            path, frame.data, compression="lzw", resolution=(per_um, per_um), resolutionunit="CENTIMETER", metadata=None
        )
    return time.monotonic()


def start_watching(acquisition: Path, out: Path) -> subprocess.Popen[str]:
    """Start defocus-watch as a user would and return once it says that it watches."""
    command = [str(Path(sys.executable).with_name("defocus-watch")), str(acquisition), "-o", str(out)]
    print("$", " ".join(command), flush=True)
    group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {}  # type: ignore[attr-defined]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **group)
    ready = threading.Event()

    def relay() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            print("   ", line.rstrip(), flush=True)
            ready.set()
        ready.set()

    threading.Thread(target=relay, daemon=True).start()
    ready.wait(PATIENCE_S)
    if process.poll() is not None:
        sys.exit(f"demo: defocus-watch ended with exit code {process.returncode}; its message stands above")
    time.sleep(1.0)  # its first look at the folder, after which the system tells it of each file
    return process


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGINT)  # type: ignore[attr-defined]
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


def acquire(frames: Iterator[Frame], acquisition: Path, out: Path, every: float) -> list[Arrival]:
    """Write a frame every `every` seconds and watch for the corrected ones meanwhile."""
    arrivals: list[Arrival] = []
    due = time.monotonic()
    pending = next(frames, None)
    deadline = due + PATIENCE_S
    while pending is not None or any(arrival.latency is None for arrival in arrivals):
        now = time.monotonic()
        if pending is not None and now >= due:
            arrivals.append(Arrival(pending, write(pending, acquisition)))
            due += every
            pending = next(frames, None)
            deadline = time.monotonic() + PATIENCE_S
        for arrival in arrivals:
            if arrival.latency is None and (out / arrival.frame.name).exists():
                arrival.latency = time.monotonic() - arrival.closed
        if now > deadline:
            break
        time.sleep(0.002)
    return arrivals


def show_table(arrivals: list[Arrival], out: Path) -> None:
    """Print file, latency, and PSNR and SSIM before and after where the truth is known."""
    known = any(arrival.frame.truth is not None for arrival in arrivals)
    table = Table(title="close of the file to corrected file")
    for heading in ("file", "latency (s)", *(("PSNR before", "after", "SSIM before", "after") if known else ())):
        table.add_column(heading, justify="left" if heading == "file" else "right")
    for arrival in arrivals:
        row = [arrival.frame.name, "missing" if arrival.latency is None else f"{arrival.latency:.2f}"]
        truth, seen = arrival.frame.truth, arrival.frame.data
        if truth is not None and seen is not None and arrival.latency is not None:
            corrected = tifffile.imread(out / arrival.frame.name)
            pairs = [(metric(truth, seen), metric(truth, corrected)) for metric in (psnr, ssim)]
            row += [f"{pairs[0][0]:.2f}", f"{pairs[0][1]:.2f}", f"{pairs[1][0]:.3f}", f"{pairs[1][1]:.3f}"]
        table.add_row(*row)
    # Piped into a file there is no terminal to fit; the names must stay whole.
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def draw_picture(arrivals: list[Arrival], out: Path, path: Path, rows: int = 3) -> None:
    """Write a picture: a row a file, input, corrected and truth side by side, with PSNR, a zoom and a scale bar."""
    done = [arrival for arrival in arrivals if arrival.latency is not None]
    if not done:
        return
    if all(arrival.frame.z_um is not None for arrival in done):
        chosen = [min(done, key=lambda arrival: abs((arrival.frame.z_um or 0) - z)) for z in PICTURED_UM]
    else:
        chosen = [done[round(i)] for i in np.linspace(len(done) / (rows + 1), len(done) - 1, min(rows, len(done)))]
    strips = []
    for arrival in chosen:
        frame = arrival.frame
        seen = tifffile.imread(frame.source) if frame.source is not None else frame.data
        images = {"input": seen, "corrected": tifffile.imread(out / frame.name), "truth": frame.truth}
        z = f"{frame.z_um:g} um out of focus" if frame.z_um is not None else frame.name[:36]
        planes = {name: _plane(image) for name, image in images.items() if image is not None}
        labels = {"input": z, **{name: name for name in planes if name != "input"}}
        if frame.truth is not None:
            for name in ("input", "corrected"):
                labels[name] += f", {psnr(frame.truth, planes[name]):.1f} dB"
        if seen is not None and np.array_equal(planes["input"], planes["corrected"]):
            labels["corrected"] = "kept as it was"
        # One grey scale a row: what the sharpest of its panels spans.
        low, high = np.percentile(list(planes.values())[-1], (1, 99.7))
        bar = 20 / OPTICS.pixel_um if frame.truth is not None else 0.0
        where = _richest(_middle(list(planes.values())[-1]))
        panels = [_panel(_middle(plane), labels[name], low, high, bar, where) for name, plane in planes.items()]
        strips.append(np.hstack(panels))
    # Sixty-four greys are what an eye tells apart in noise, and half the file.
    Image.fromarray(np.vstack(strips) // 4 * 4).save(path, optimize=True)


def _plane(image: np.ndarray) -> np.ndarray:
    """The first plane (Y, X) of an image of any axes."""
    while image.ndim > 2:
        image = image[..., 0] if image.shape[-1] in (3, 4) else image[0]
    return image.astype(np.float64)


def _middle(plane: np.ndarray) -> np.ndarray:
    y, x = ((side - min(CROP, side)) // 2 for side in plane.shape)
    return plane[y : y + CROP, x : x + CROP]


def _richest(plane: np.ndarray) -> tuple[int, int]:
    """Where the part of a panel that is shown enlarged begins (y, x): the one of most contrast in the upper half."""
    height, width = plane.shape
    starts = [(y, x) for y in range(18, max(19, height // 2 - ZOOM // 2), 6) for x in range(0, max(1, width - ZOOM), 6)]
    return max(starts, key=lambda start: plane[start[0] : start[0] + ZOOM, start[1] : start[1] + ZOOM].std())


def _panel(plane: np.ndarray, label: str, low: float, high: float, bar: float, where: tuple[int, int]) -> np.ndarray:
    """A plane with its label, the part at `where` twice as large in the corner, and a bar of 20 um if it is known."""
    grey = np.clip((plane - low) / max(high - low, 1e-9), 0, 1) ** 0.7
    image = Image.fromarray((grey * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    height, width = plane.shape
    top, left = where
    zoom = image.crop((left, top, left + ZOOM, top + ZOOM)).resize((2 * ZOOM, 2 * ZOOM), Image.Resampling.BICUBIC)
    draw.rectangle((left, top, left + ZOOM, top + ZOOM), outline=255)
    image.paste(zoom, (width - 2 * ZOOM, height - 2 * ZOOM))
    draw.rectangle((width - 2 * ZOOM, height - 2 * ZOOM, width - 1, height - 1), outline=255)
    draw.rectangle((0, 0, 8 + 6.2 * len(label), 16), fill=0)
    draw.text((5, 2), label, fill=255)
    if bar:
        draw.rectangle((8, height - 12, 8 + bar, height - 8), fill=255)
        draw.text((8, height - 26), "20 um", fill=255, stroke_width=1, stroke_fill=0)
    return np.pad(np.asarray(image), 2, constant_values=60)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--acq", type=Path, help="replay the TIFFs of this folder instead of drawing specimens")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="only write the drawn specimens to this folder")
    parser.add_argument("--every", type=float, default=1.5, help="seconds between two files")
    parser.add_argument("--picture", type=Path, default=HERE / "before_after.png")
    options = parser.parse_args()
    if options.acq is not None and not options.acq.is_dir():
        sys.exit(f"demo: {options.acq}: no such folder; name one with TIFF files in it")
    if options.draw is not None:
        options.draw.mkdir(parents=True, exist_ok=True)
        for frame in drifting():
            write(frame, options.draw)
        return
    acquisition, out = HERE / "acquisition", HERE / "acquisition_corrected"
    for folder in (acquisition, out):
        shutil.rmtree(folder, ignore_errors=True)
    acquisition.mkdir()
    frames = list(drifting() if options.acq is None else replayed(options.acq))
    process = start_watching(acquisition, out)
    try:
        arrivals = acquire(iter(frames), acquisition, out, options.every)
    finally:
        stop(process)
    show_table(arrivals, out)
    draw_picture(arrivals, out, options.picture)
    missing = [arrival.frame.name for arrival in arrivals if arrival.latency is None]
    if missing:
        sys.exit(f"demo: no corrected file for {', '.join(missing)}; defocus-watch said why above")
    command = [str(Path(sys.executable).with_name("defocus")), "report", str(out), "--inputs", str(acquisition)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"corrected files: {out}\npicture: {options.picture}\nreport: {out / 'report.html'}")


if __name__ == "__main__":
    main()
