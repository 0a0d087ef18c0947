"""What Lightning fits: a network with eq. (5) and Adam, as a recipe asks for them."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...engine.errors import ModelError
from ..networks.coarse_to_fine import MULTIPLE, CoarseToFine, start_near_identity
from .checkpoint import build_network
from .loss import balance_weights, content_loss
from .recipe import CHECKPOINT, Recipe

# Images are in unit range: a loss above these, by distance, comes from weights that have run away.
LIMITS: dict[str, float] = {"l1": 1e4, "mse": 1e8, "log-mse": 50.0}
FLOOR = 1e-8  # mean square error of 80 dB: what is equal has a gain that can be averaged


class RestorationModule(pl.LightningModule):
    """The network, eq. (5) and Adam, as a recipe asks for them."""

    def __init__(self, **recipe: Any) -> None:
        super().__init__()
        self.save_hyperparameters(recipe)
        self.recipe = Recipe(**recipe)
        self.network = build_network(self.recipe)
        if isinstance(self.network, CoarseToFine) and self.recipe.near_identity:
            start_near_identity(self.network)
        self.last_batch: tuple[Tensor, Tensor] | None = None

    def on_train_start(self) -> None:
        # A resume brings back the learning rate of the run that it goes on with; the recipe's counts.
        scheduler, rate = self.lr_schedulers(), self.recipe.learning_rate
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        scheduler.base_lrs = [rate for _ in scheduler.base_lrs]
        for group in scheduler.optimizer.param_groups:
            group["initial_lr"] = rate
            group["lr"] = rate * rate_factor(scheduler.last_epoch, self.recipe)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if self.global_step >= self.recipe.frozen_from:
            # The last steps see the running statistics, as inference does.
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        self.last_batch = batch
        loss = self._loss(batch)
        self._check_loss(loss)
        self.log("loss", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Look at what the last step did to the weights, before they become a checkpoint."""
        if self.last_batch is None:
            return
        modes = {module: module.training for module in self.network.modules()}
        self.network.eval()
        self._check_loss(self._loss(self.last_batch))
        for module, mode in modes.items():
            module.training = mode

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], index: int) -> Tensor:
        """Log the gain of each plane in dB, also for its distance if that is known; returns the planes restored."""
        blurred, sharp, distance = batch
        with torch.autocast(blurred.device.type, enabled=False):  # as the engine runs it; bf16 would cap the PSNR
            output = self.network(blurred)[0].float()
        for before, after, truth, z in zip(blurred, output, sharp, distance, strict=True):
            errors = [(image - truth).square().mean().clamp(min=FLOOR) for image in (before, after)]
            gain = 10 * torch.log10(errors[0] / errors[1])
            names = ["gain"] if torch.isnan(z) else [f"gain_{abs(round(float(z))):02d}um", "gain"]
            for name in names:
                self.log(name, gain, prog_bar=name == "gain", on_epoch=True, batch_size=1, sync_dist=True)
        return output

    def configure_optimizers(self) -> dict[str, Any]:
        r = self.recipe
        optimizer = torch.optim.Adam(self.parameters(), lr=r.learning_rate, betas=(0.9, r.beta2))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, r))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        blurred, sharp = batch
        with torch.autocast(blurred.device.type, torch.bfloat16, enabled="bf16" in str(self.trainer.precision)):
            outputs = self.network(blurred.contiguous(memory_format=torch.channels_last))
        weights = balance_weights(blurred, sharp, self.recipe.balance)
        r = self.recipe
        return content_loss(outputs, sharp, weights, r.distance, r.light_weight, r.coarse_weight)

    def _check_loss(self, loss: Tensor) -> None:
        """Stop, on all devices at the same step, if the loss of one of them has run away."""
        loss = loss.detach()
        if self.trainer.world_size > 1:
            losses = self.all_gather(loss)
            assert isinstance(losses, Tensor)
            loss = losses.max()  # NaN comes through
        if not loss < LIMITS[self.recipe.distance]:
            if not self.trainer.is_global_zero:
                raise SystemExit(0)  # the first process says it for all
            raise ModelError(
                "training",
                f"the loss became {float(loss):.3g} at step {self.global_step}",
                f"lower the learning rate (it is {self.recipe.learning_rate:g}) in the recipe; "
                f"{CHECKPOINT}, if an epoch was completed, holds the last good state: go on from it with --resume",
            )


def rate_factor(step: int, recipe: Recipe) -> float:
    """Learning rate relative to the recipe's: linear warm-up, constant, then half a cosine down to 1/100.

    The constant part lets a run that is resumed with another number of steps go on where it was. Without a decay
    share it lasts to the end.
    """
    warm = min(1.0, (step + 1) / max(recipe.warmup_steps, 1))
    if recipe.decay_share == 0:
        return warm
    start = recipe.steps * (1 - recipe.decay_share)
    along = min(max((step - start) / max(recipe.steps - start, 1), 0.0), 1.0)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * along)))


def multiple_of(network: nn.Module) -> int:
    """What height and width of the network's input are multiples of."""
    return int(getattr(network, "multiple", MULTIPLE))
