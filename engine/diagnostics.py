"""What this machine can run, and why not the rest: the picture that `defocus-doctor` prints."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ._version import __version__
from .errors import DefocusError, old_packages
from .inference.backends import AUTO, NAMES, backend, open_session
from .inference.backends.onnx_runtime import providers
from .inference.backends.tensorrt.plan_cache import PlanCache
from .inference.gpu.driver import driver_version, find_gpu, why_no_gpu
from .inference.parity import psnr
from .model.card import Card, half_precision, model_path, read_card
from .threads import available_cores

PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "MNN",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "pycuda",
    "tifffile",
    "imagecodecs",
    "numpy",
)
TEST_SHAPE = (528, 704)  # px, about a BBBC006 plane
LEAST_DB = 50.0  # a backend nearer than this to ONNX Runtime on the CPU is equal for 16-bit images of real specimens


@dataclass(frozen=True)
class Trial:
    """One backend tried with the model: how long an inference takes (median of `runs`, s), how near it is to the CPU's.

    `psnr` is None for the CPU itself and where it was not run; `error` is the one line of what went wrong.
    """

    backend: str
    description: str = ""
    open_s: float = 0.0
    seconds: float = 0.0
    runs: int = 0
    psnr: float | None = None
    error: str = ""

    @property
    def passes(self) -> bool:
        return not self.error and (self.psnr is None or self.psnr >= LEAST_DB)


@dataclass(frozen=True)
class Picture:
    """All that the doctor found; `to_dict` is its JSON."""

    system: dict[str, Any]
    gpu: dict[str, Any] | str
    packages: dict[str, str]
    providers: list[str]
    backends: dict[str, str | None]
    model: dict[str, Any] | str
    chosen: str
    engines: list[str]
    engine_folder: str
    trials: list[Trial] = field(default_factory=list)
    old_packages: str = ""  # the one line about packages that are too old

    @property
    def healthy(self) -> bool:
        """Whether images can be restored here, and everything tried is right."""
        usable = isinstance(self.model, dict) and bool(self.chosen) and not self.old_packages
        return usable and all(trial.passes for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"healthy": self.healthy}


def examine(
    model: str = "default", self_test: bool = False, tell: Callable[[str], None] = lambda line: None
) -> Picture:
    """Look at the machine and the model; with `self_test`, run the model on every backend that works here.

    Nothing is raised for what is broken: it is told in the picture. The self-test may build a TensorRT engine, which
    takes minutes once.
    """
    card: Card | None = None
    path: Path | None = None
    try:
        path = model_path(model)
        card = read_card(path)
        half_sha256, half_error = _half(path, card)
        about: dict[str, Any] | str = {
            "name": card.name,
            "sha256": card.sha256,
            "precision": card.precision,
            "half_sha256": half_sha256,
            "half_error": half_error,
            "channels": card.channels,
            "halo": card.halo,
        }
    except DefocusError as error:
        about = str(error)
    reasons = {name: backend(name).unavailable_reason() for name in NAMES}
    trials = list(_trials(path, card, reasons, tell)) if self_test and path and card else []
    cache = PlanCache()
    return Picture(
        system={
            "defocus": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cores": available_cores(),
        },
        gpu=_gpu(),
        packages={name: installed for name in PACKAGES if (installed := _version(name))},
        providers=providers(),
        backends=reasons,
        model=about,
        chosen=_choose(path, card) if path and card else "",
        engines=[str(entry) for entry in cache.entries()],
        engine_folder=str(cache.folder),
        trials=trials,
        old_packages=str(old_packages() or ""),
    )


def lines(picture: Picture) -> list[str]:
    """The picture for people."""
    system = picture.system
    cores = f"{system['cores']} core{'s' * (system['cores'] > 1)}"
    rows = [f"defocus {system['defocus']}, Python {system['python']}, {system['system']}, {cores}"]
    gpu = picture.gpu
    if isinstance(gpu, str):
        rows.append(f"GPU       none that can be used: {gpu}")
    else:
        driver = f"driver {gpu['driver']} for CUDA {gpu['cuda']}" if gpu["driver"] else f"driver for CUDA {gpu['cuda']}"
        rows.append(f"GPU       {gpu['name']}, {gpu['memory_gib']} GiB, {gpu['sm']}, {driver}")
    rows.append("packages  " + ", ".join(f"{name} {number}" for name, number in picture.packages.items()))
    if picture.old_packages:
        rows.append(f"TOO OLD   {picture.old_packages}")
    rows.append(f"providers of ONNX Runtime: {', '.join(picture.providers) or 'none'}")
    model = picture.model
    if isinstance(model, dict):
        on_card = f"; on a card fp16, sha256 {model['half_sha256'][:12]}" if model["half_sha256"] else ""
        rows.append(f"model     {model['name']}, {model['precision']}, sha256 {model['sha256'][:12]}{on_card}")
        if model["half_error"]:
            rows.append(f"          on a card, too: {model['half_error']}")
    else:
        rows.append(f"model     {model}")
    rows.append("backends, in the order of --backend auto:")
    for name, reason in picture.backends.items():
        mark = "works" if reason is None else f"no: {reason}; {backend(name).remedy()}"
        rows.append(f"  {name:9} {mark}")
    rows.append(f"chosen    {picture.chosen or 'none'}")
    count = len(picture.engines)
    rows.append(f"engines   {count or 'none'} in {picture.engine_folder}")
    rows += [f"  {engine}" for engine in picture.engines]
    if picture.trials:
        rows.append(f"self-test on {' x '.join(map(str, TEST_SHAPE))} px:")
        for trial in picture.trials:
            if trial.error:
                rows.append(f"  {trial.backend:9} FAILED: {trial.error}")
                continue
            near = "the reference" if trial.psnr is None else f"{trial.psnr:.1f} dB to the CPU's"
            verdict = "" if trial.passes else f" FAILED: less than {LEAST_DB:g} dB"
            rows.append(f"  {trial.backend:9} {trial.seconds * 1e3:7.1f} ms, {near}{verdict} ({trial.description})")
    return rows


def _half(path: Path, card: Card) -> tuple[str, str]:
    """The hash of the model's file in half precision, "" without one, and what is wrong with it."""
    try:
        half = half_precision(path, card)
    except DefocusError as error:
        return "", str(error)
    return (half[1].sha256 if half else ""), ""


def _trials(path: Path, card: Card, reasons: dict[str, str | None], tell: Callable[[str], None]):  # type: ignore[no-untyped-def]
    """Each backend that works here, the CPU first: it is what the others are compared with."""
    batch = _test_planes(card)
    expected: np.ndarray | None = None
    for name in sorted((name for name in reasons if reasons[name] is None), key=lambda name: name != "cpu"):
        tell(f"trying {name}")
        start = perf_counter()
        try:
            opened = open_session(name, path, card)
            try:
                opened_in = perf_counter() - start
                result = opened.session.run(batch).copy()  # the next run may use its place again
                times = []
                while len(times) < 3 or (sum(times) < 1 and len(times) < 50):
                    start = perf_counter()
                    opened.session.run(batch)
                    times.append(perf_counter() - start)
                near = None if expected is None else psnr(expected, result)
                if name == "cpu":
                    expected = result
                yield Trial(name, opened.session.description, opened_in, float(np.median(times)), len(times), near)
            finally:
                opened.session.close()
        except DefocusError as error:
            yield Trial(name, error=str(error))


def _test_planes(card: Card) -> np.ndarray:
    """Soft discs of many sizes with camera noise, float32 (1, C, Y, X) in unit range."""
    rng = np.random.default_rng(0)
    height, width = TEST_SHAPE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    plane = np.zeros(TEST_SHAPE, np.float32)
    for cy, cx, radius, soft in rng.uniform((0, 0, 4, 1), (height, width, 20, 6), (40, 4)):
        plane += 1 / (1 + np.exp(np.clip((np.hypot(y - cy, x - cx) - radius) / soft, -30, 30)))
    plane = (np.clip(plane, 0, 1.3) + rng.normal(0, 0.01, TEST_SHAPE)).astype(np.float32)
    return np.repeat(plane[None, None], card.channels, axis=1)


def _choose(path: Path, card: Card) -> str:
    """What --backend auto opens for this model here, "" if nothing."""
    try:
        opened = open_session(AUTO, path, card)
    except DefocusError:
        return ""
    opened.session.close()
    return f"{opened.name}: {opened.session.description}"


def _gpu() -> dict[str, Any] | str:
    if reason := why_no_gpu():
        return reason
    gpu = find_gpu()
    return {
        "name": gpu.name,
        "sm": gpu.sm,
        "memory_gib": round(gpu.memory / 2**30, 1),
        "multiprocessors": gpu.multiprocessors,
        "cuda": "{}.{}".format(*gpu.cuda),
        "driver": driver_version(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
