"""Training every compared method alike: the same crops, loss and wall-clock time, so many steps as each then makes."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import Dataset

from ...engine.errors import InputError
from ..classical.denoiser import fit_denoiser
from ..data.fields import Source
from ..data.paired import PairedCrops, recipe_for
from ..data.simulated import DefocusedCrops
from ..data.sources import load_pools, split_sources
from ..fit.checkpoint import load_checkpoint, save_weights
from ..fit.fit import default_precision, fit
from ..fit.recipe import Recipe
from ..fit.restoration import RestorationModule
from ..networks.zoo import METHODS, build
from .heldout import OPTICS
from .methods import DENOISER, SHIPPED, WEIGHTS

if TYPE_CHECKING:
    from ..data.pairs import Pair

BUDGETS = "budgets.json"
NEVER = 1_000_000
# Networks that work at full resolution throughout cost 10 to 200 times as much a pixel as a U-Net: in the same time
# they see smaller crops, or they would make a handful of steps.
HEAVY = {"crop": 96, "margin": 48, "batch": 2, "learning_rate": 3e-4}
# Simulated with the optics that the suite (heldout.py) is made with: methods are compared, not how wide a
# training distribution each of them can learn in the time.
SUITE_OPTICS = {
    "na": (OPTICS.na, OPTICS.na),
    "wavelength_um": (OPTICS.wavelength_um, OPTICS.wavelength_um),
    "pixel_um": (OPTICS.pixel_um, OPTICS.pixel_um),
    "defocus_um": (8.0, 36.0),
    "sharp_share": 0.1,
    "peak_photons": (2000.0, 9000.0),
    "haze": (0.0, 0.0),
    "wide_share": 0.0,
    "thick_share": 0.0,
    "empty_share": 0.0,
    "spherical_waves": 0.0,
    "asymmetric_waves": 0.0,
    "coarse_weight": 1.0,
}
PLANS: dict[str, dict] = dict.fromkeys(("nah", "rdn", "rdn-light", "srn", "mrn", "dncnn", DENOISER), HEAVY)
TABLE_METHODS = (
    *(f"residual-{n}" for n in (1, 2, 3, 4)),
    *(f"concat-{n}" for n in (2, 3, 4)),
    "nah",
    "rdn-light",
    "srn",
    "mrn",
    "dncnn",
    DENOISER,
)


def recipe_for_method(name: str, steps: int, seed: int) -> Recipe:
    """The recipe of a method for so many steps."""
    epochs = 10
    return Recipe(
        network=name,
        steps=steps,
        steps_per_epoch=max(1, steps // epochs),
        warmup_steps=min(100, steps // 10),
        decay_share=0.6,
        ema_decay=0.99,
        ema_from_step=steps // 3,
        validate_every=NEVER,
        seed=seed,
        **SUITE_OPTICS,
        **PLANS.get(name, {}),
    )


def train_all(
    names: Sequence[str],
    sources: Sequence[Source],
    held_out: Sequence[str],
    runs: Path,
    weights: Path,
    seconds: float,
    seed: int = 0,
    tell: Callable[[str], None] = print,
    pairs: Sequence[Pair] = (),
) -> None:
    """Train methods one after the other, so many steps as each makes in `seconds`; those with weights are left.

    On sharp images (`sources`) or measured `pairs`. Writes `runs/NAME` (recipe, split, log, checkpoint),
    `weights/NAME.pt` in half precision, and `weights/budgets.json` with steps, crops, seconds and machine of each.
    Raises InputError for an unknown name or unusable images.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise InputError(unknown[0], "is no method that can be trained", f"choose from {', '.join(METHODS)}")
    weights.mkdir(parents=True, exist_ok=True)
    targets = {name: weights / f"{name}{WEIGHTS}" for name in names}
    for name in names:
        if targets[name].exists():
            tell(f"{name}: {targets[name].name} is there already")
    names = [name for name in names if not targets[name].exists()]
    recipes = {name: recipe_for_method(name, NEVER, seed) for name in names}
    if pairs:
        recipes = {name: recipe_for(pairs, one, build(name, 1).multiple) for name, one in recipes.items()}  # type: ignore[arg-type]
    # All speeds first, in one go: a machine that is busy later must not cost one method its steps.
    speeds = {name: seconds_per_step(recipe) for name, recipe in recipes.items() if name != DENOISER}
    for name in names:
        start = time.monotonic()
        if name == DENOISER:
            crops = crops_of(recipes[name], sources, held_out, pairs)
            steps, recipe = fit_denoiser(crops, targets[name], seconds, seed)
        else:
            steps = max(20, int(seconds / speeds[name]))
            recipe = recipe_for_method(name, steps, seed)
            fitted = fit(sources, runs / name, recipe, held_out, progress_bar=False, pairs=pairs)
            save_weights(*load_checkpoint(fitted.checkpoint), targets[name])
        taken = time.monotonic() - start
        tell(f"{name}: {steps} steps in {taken:.0f} s")
        record(weights, name, {"steps": steps, "batch": recipe.batch, "crop": recipe.crop, "seconds": round(taken)})


def crops_of(recipe: Recipe, sources: Sequence[Source], held_out: Sequence[str], pairs: Sequence[Pair]) -> Dataset:
    """The training crops that a recipe cuts."""
    if pairs:
        return PairedCrops(pairs, recipe)
    return DefocusedCrops(load_pools(split_sources(sources, held_out), recipe), recipe)


def seconds_per_step(recipe: Recipe, steps: int = 6) -> float:
    """Least measured time of an optimizer step of a recipe: what it takes when nothing else runs on the machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = RestorationModule(**dataclasses.asdict(recipe)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-6)
    blurred = torch.rand(recipe.batch, recipe.channels, recipe.crop, recipe.crop)
    blurred = blurred.to(device, memory_format=torch.channels_last)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=default_precision() == "bf16-mixed"):
            outputs = module.network(blurred)
        optimizer.zero_grad()
        torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def record(weights: Path, name: str, budget: dict) -> None:
    """Add a method's training budget to budgets.json."""
    path = weights / BUDGETS
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entries[name] = {**budget, "machine": f"{torch.get_num_threads()} threads of {machine()}"}
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def budgets(weights: Path) -> dict[str, str]:
    """What budgets.json says of each method, as text for a table; ADMM has what its denoiser had."""
    path = weights / BUDGETS
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    texts = {
        name: f"{entry['steps']:,} steps of {entry['batch']} x {entry['crop']} px, {entry['seconds']} s"
        for name, entry in entries.items()
    }
    if DENOISER in texts:
        texts["admm"] = f"its denoiser: {texts[DENOISER]}"
    return {SHIPPED: "docs/models/default.md", **texts}


def machine() -> str:
    """The accelerator or the processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
