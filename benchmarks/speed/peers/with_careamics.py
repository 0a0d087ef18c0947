"""CAREamics' prediction (0.3) over our network, put in the place of its U-Net. IN OUT PROGRAM LOW HIGH [TILE].

It loads no network but its own, so ours is set as its module's model and goes through one of its checkpoints; reading,
normalisation (minimum and maximum, told as training would have found them), tiles, stitching and writing are its own.
"""

import sys
import tempfile
import types
from pathlib import Path

import lightning  # type: ignore[import-not-found]  # noqa: F401
import torch

# Only its variational networks use torchvision, which it imports whatever one does. Lightning has seen by now that it
# is not there.
for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__version__ = "0"  # type: ignore[attr-defined]
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, sys.modules[name])

from careamics import CAREamist  # type: ignore[import-not-found]  # noqa: E402
from careamics.config.factories.care_n2n_factory import (  # type: ignore[import-not-found]  # noqa: E402
    create_advanced_care_config,
)

source, out, program = map(Path, sys.argv[1:4])
low, high = map(float, sys.argv[4:6])
tile = int(sys.argv[6]) if len(sys.argv) > 6 else None
config = create_advanced_care_config(
    experiment_name="peers",
    data_type="tiff",
    axes="YX",
    patch_size=[64, 64],
    batch_size=1,
    num_workers=0,
    normalization="min_max",
    normalization_params={"input_mins": [low], "input_maxes": [high], "target_mins": [low], "target_maxes": [high]},
    trainer_params={"accelerator": "cpu"},
)


class Padded(torch.nn.Module):
    """Sides that are no multiple of 16 are mirrored on, as our own engine does."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def train(self, mode: bool = True) -> "Padded":
        """An exported program is for inference and refuses to be asked."""
        return self

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        padded = torch.nn.functional.pad(image, (0, -width % 16, 0, -height % 16), mode="reflect")
        return self.network(padded)[..., :height, :width]


with tempfile.TemporaryDirectory() as folder:
    careamist = CAREamist(config, work_dir=folder, enable_progress_bar=False)
    careamist.model.model = Padded(torch.export.load(program).module())
    careamist.trainer.strategy.connect(careamist.model)
    checkpoint = Path(folder) / "ours.ckpt"
    careamist.trainer.save_checkpoint(checkpoint)
    tiles = {} if tile is None else {"tile_size": (tile, tile)}
    careamist.predict_to_disk(sorted(source.iterdir()), prediction_dir=out, checkpoint=checkpoint, **tiles)
