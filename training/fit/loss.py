"""The multi-scale content loss, eq. (5) of Wang & Han."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .recipe import Distance

FLOOR = 1e-6  # of the mean square in unit range, 60 dB: an empty crop must not outweigh all others


def content_loss(
    outputs: list[Tensor],
    sharp: Tensor,
    weights: Tensor | None = None,
    distance: Distance = "l1",
    light_weight: float = 0.0,
    coarse_weight: float = 1.0,
) -> Tensor:
    """Eq. (5).

    Parameters
    ----------
    outputs : list of tensors (batch, channels, Y / 2^(n-1), X / 2^(n-1)), finest level first.
    sharp : tensor (batch, channels, Y, X)
        The target; each level is compared with its average over 2^(n-1) x 2^(n-1) pixels.
    weights : tensor (batch,), optional
        A weight for each image of the batch.
    distance : {"l1", "mse", "log-mse"}
        The absolute error, which the paper's text prefers; the square that it prints; or the logarithm of each image's
        mean square, the loss of NAFNet (Chen et al., ECCV 2022): PSNR but for a factor, so that a decibel counts the
        same near focus and far from it.
    light_weight : float
        With "mse" and "log-mse": adds so many times the square of the mean error to the mean square, so that the total
        light of a plane stays as it is, which a mean square alone hardly asks for where it is small.
    coarse_weight : float
        How much each level but the finest counts; 1 in eq. (5).

    Returns
    -------
    Scalar: the weighted sum over the levels of the (weighted) mean error.
    """
    total = torch.zeros((), dtype=torch.float32, device=sharp.device)
    for n, output in enumerate(outputs):
        target = sharp if n == 0 else avg_pool2d(sharp, 2**n)
        difference = output.float() - target
        errors = (difference.abs() if distance == "l1" else difference.square()).mean(dim=(1, 2, 3))
        if distance != "l1" and light_weight:
            errors = errors + light_weight * difference.mean(dim=(1, 2, 3)).square()
        if distance == "log-mse":
            errors = torch.log(errors + FLOOR)
        share = coarse_weight if n else 1.0
        total = total + share * (errors if weights is None else errors * weights).mean()
    return total


def balance_weights(blurred: Tensor, sharp: Tensor, exponent: float) -> Tensor:
    """Weights (batch,) that fall with how much was lost, so that a gain in dB counts alike at every distance.

    (0.05 / (0.005 + mean |blurred - sharp|)) ** exponent: with exponent 0 all are 1 and the loss is eq. (5) itself.
    """
    lost = (blurred - sharp).abs().mean(dim=(1, 2, 3))
    return (0.05 / (0.005 + lost)) ** exponent
