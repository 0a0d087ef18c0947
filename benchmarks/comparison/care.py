"""Train CARE as careamics packages it on the same crops for the same time, and write it as care.onnx.

In an environment of its own: careamics 0.3.5 wants torchvision 0.26 at most, and so torch 2.11.

    python -m venv runs/care && runs/care/bin/pip install careamics onnx onnxscript ".[cpu,train]"
    D=../shared/data
    runs/care/bin/python -m benchmarks.comparison.care --minutes 1.25 -o runs/compare/weights \\
        --simulate $D/bbbc006/infocus_w2=0.45 --simulate $D/bbbc006/infocus_w1=0.12 \\
        --simulate $D/dsb2018/520x696=0.32 --simulate $D/cellprofiler_gfp=0.11

Its defaults stay: U-Net, mean and standard deviation normalisation, mean absolute error, Adam.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np
import torch

from defocus.training.data.fields import Source
from defocus.training.data.simulated import DefocusedCrops
from defocus.training.data.sources import load_pools, split_sources
from defocus.training.evaluation.compare import SUITE_OPTICS, record
from defocus.training.evaluation.heldout import HELD_OUT
from defocus.training.fit.recipe import Recipe

CROP, BATCH = 128, 8


class Unit(torch.nn.Module):
    """The network between the normalisations that careamics does outside of it: unit range in, unit range out."""

    def __init__(self, network: torch.nn.Module, source: np.ndarray, target: np.ndarray) -> None:
        super().__init__()
        self.network = network
        self.mean, self.std = float(source.mean()), float(source.std())
        self.target_mean, self.target_std = float(target.mean()), float(target.std())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network((image - self.mean) / self.std) * self.target_std + self.target_mean


def train(blurred: np.ndarray, sharp: np.ndarray, seconds: float, seed: int) -> tuple[torch.nn.Module, int, str]:
    """Train on pairs (S, Y, X) in unit range. Returns the network, the steps made and careamics' version."""
    try:
        import torchvision  # noqa: F401  # pyright: ignore
    except (ImportError, RuntimeError):
        # Only careamics' variational models use it, but it is imported whatever one trains.
        stub = types.ModuleType("torchvision")
        stub.__version__ = "0"  # type: ignore[attr-defined]
        functional = types.ModuleType("torchvision.transforms.functional")
        transforms = types.ModuleType("torchvision.transforms")
        transforms.functional = functional  # type: ignore[attr-defined]
        stub.transforms = transforms  # type: ignore[attr-defined]
        sys.modules.update(
            {"torchvision": stub, "torchvision.transforms": transforms, "torchvision.transforms.functional": functional}
        )
    import careamics  # pyright: ignore
    from careamics.config.factories.care_n2n_factory import create_advanced_care_config  # pyright: ignore

    minutes, rest = divmod(round(seconds), 60)
    config = create_advanced_care_config(
        experiment_name="care",
        data_type="array",
        axes="SYX",
        patch_size=[CROP, CROP],
        batch_size=BATCH,
        num_epochs=1000,
        num_workers=0,
        normalization_params={
            "input_means": [float(blurred.mean())],
            "input_stds": [float(blurred.std())],
            "target_means": [float(sharp.mean())],
            "target_stds": [float(sharp.std())],
        },
        trainer_params={"max_time": f"00:00:{minutes:02d}:{rest:02d}"},
        seed=seed + 1,  # careamics takes no 0
    )
    with tempfile.TemporaryDirectory() as folder:
        careamist = careamics.CAREamist(config, work_dir=folder, enable_progress_bar=False)
        careamist.train(train_data=blurred, train_data_target=sharp)
    steps = careamist.trainer.global_step
    return Unit(careamist.model.model.cpu().eval(), blurred, sharp), steps, careamics.__version__


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--simulate", action="append", required=True, metavar="FOLDER[=WEIGHT]")
    parser.add_argument("--hold-out", nargs="+", default=HELD_OUT)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--crops", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    recipe = Recipe(crop=CROP, batch=BATCH, seed=options.seed, **SUITE_OPTICS)
    pools = load_pools(split_sources([Source.parse(text) for text in options.simulate], options.hold_out), recipe)
    crops = DefocusedCrops(pools, recipe)
    pairs = np.stack([torch.cat(crops[i]).numpy() for i in range(options.crops)])
    start = time.monotonic()
    network, steps, version = train(pairs[:, 0], pairs[:, 1], 60 * options.minutes, options.seed)
    seconds = round(time.monotonic() - start)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "care.onnx"
    sizes = {2: torch.export.Dim("height16", min=2) * 16, 3: torch.export.Dim("width16", min=2) * 16}
    program = torch.onnx.export(
        network, (torch.rand(1, 1, 64, 96),), dynamo=True, dynamic_shapes=(sizes,), input_names=["image"], verbose=False
    )
    assert program is not None
    program.model.metadata_props["careamics"] = version
    program.save(path)
    record(options.output, "care", {"steps": steps, "batch": BATCH, "crop": CROP, "seconds": seconds})
    print(f"{steps} steps in {seconds} s: {path}")


if __name__ == "__main__":
    main()
