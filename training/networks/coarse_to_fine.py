"""The feature interactive coarse-to-fine network of Wang & Han, "Defocus deblur microscopy via feature
interactive coarse-to-fine network": a cascade of U-Nets, the coarsest first, whose decoders feed the
encoders of the next finer level. Symbols follow the paper; equation numbers are its own.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, max_pool2d

from ..fit.recipe import Interaction, Recipe

BASE_WIDTH = 16
DEEPEST = 5  # resolutions of the finest level: every level bottoms out at 1/16 of full resolution
MULTIPLE = 2 ** (DEEPEST - 1)


def width(stage: int) -> int:
    """Channels of encoder and decoder stage `stage` (0 is the stage at the level's own resolution)."""
    return BASE_WIDTH * 2**stage


class EncoderStage(nn.Sequential):
    """[Conv3x3 - BatchNorm - ReLU] x 2.

    Where training goes on with frozen statistics, each BatchNorm is folded into the convolution before it: the same
    function and gradients without passes over the feature maps that take as long as the convolutions themselves.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )

    def forward(self, input: Tensor) -> Tensor:
        x = input
        for first in (0, 3):
            convolution, norm, relu = self[first], self[first + 1], self[first + 2]
            if self.training and not norm.training:
                x = relu(folded(x, cast(nn.Conv2d, convolution), cast(nn.BatchNorm2d, norm)))
            else:
                x = relu(norm(convolution(x)))
        return x


def folded(x: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """`norm(convolution(x))` with the running statistics of `norm`, as one convolution."""
    mean, variance, bias = norm.running_mean, norm.running_var, convolution.bias
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    assert isinstance(bias, Tensor)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    weight = convolution.weight * scale[:, None, None, None]
    return conv2d(x, weight, (bias - mean) * scale + norm.bias, padding=convolution.padding)  # type: ignore[arg-type]


class DecoderStage(nn.Module):
    """2x2 transposed convolution, concatenation with the skip, [Conv3x3 - ReLU] x 2 without BatchNorm."""

    def __init__(self, stage: int, skip_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width(stage + 1), width(stage), 2, stride=2)
        self.convolutions = nn.Sequential(
            nn.Conv2d(width(stage) + skip_channels, width(stage), 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width(stage), width(stage), 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        return self.convolutions(torch.cat([self.up(below), skip], dim=1))


class Level(nn.Module):
    """One level of the cascade: U(d), a U-Net with d resolutions that may take features of the coarser level.

    Parameters
    ----------
    depth : int
        d, the number of resolutions (2 to 5 in the paper).
    channels_in, channels_out : int
        Channels of the input (image, and the coarser output where eq. 3 gives it) and of the image.
    interaction : {"residual", "concat"} or None
        How the coarser level's decoder features enter the encoder; None for the coarsest level.
    """

    def __init__(self, depth: int, channels_in: int, channels_out: int, interaction: Interaction | None) -> None:
        super().__init__()
        self.depth, self.interaction = depth, interaction
        linked = range(1, depth - 1) if interaction else range(0)  # stages i with a link: not E0, not the deepest
        self.linked = frozenset(linked)
        # Eq. 7 widens what leaves a linked stage by the c = width(i - 1) channels of the coarser decoder.
        extra = [width(i - 1) if interaction == "concat" and i in self.linked else 0 for i in range(depth)]
        leaves = [width(i) + extra[i] for i in range(depth)]
        enters = [channels_in, *leaves[:-1]]
        self.encoder = nn.ModuleList(EncoderStage(enters[i], width(i)) for i in range(depth))
        self.decoder = nn.ModuleList(DecoderStage(i, leaves[i]) for i in range(depth - 1))
        self.output = nn.Conv2d(width(0), channels_out, 1)

    def forward(self, x: Tensor, coarser: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the level's image and its decoder features D_0 .. D_{d-2}.

        `coarser` holds D_0 .. of the next coarser level (empty for the coarsest). D_{i-1} there already has
        the size of stage i here, because that level starts at half the resolution.
        """
        skips: list[Tensor] = []
        for i, stage in enumerate(self.encoder):
            if i > 0:
                x = max_pool2d(x, 2)
            if i in self.linked and self.interaction == "residual":
                x = x + coarser[i - 1]  # eq. 6
            x = stage(x)
            if i in self.linked and self.interaction == "concat":
                x = torch.cat([x, coarser[i - 1]], dim=1)  # eq. 7
            skips.append(x)
        features: list[Tensor] = []
        for i in reversed(range(self.depth - 1)):
            x = self.decoder[i](x, skips[i])
            features.insert(0, x)
        return self.output(x), features


class CoarseToFine(nn.Module):
    """N levels, n = 1 (finest, full resolution) .. N (coarsest); level n is U(6 - n) on x downsampled by 2^(n-1).

    A pure function of the padded input: height and width are multiples of 16 and nothing is padded inside.
    There is no global "+ x" (eq. 3 against eq. 2) and no weight is shared between the levels.

    Parameters
    ----------
    levels : int
        N, 1 to 4. N = 1 is the plain U-Net.
    interaction : {"residual", "concat"}
        Eq. 6 or eq. 7.
    channels : int
        Channels of the image, in and out.
    finest_sees_coarse : bool
        Whether level 1 also takes the upsampled output of level 2 (eq. 3). False reproduces Table 1's counts.

    Raises
    ------
    ValueError
        For another N, interaction, or no channel.
    """

    multiple = MULTIPLE

    def __init__(
        self,
        levels: int = 4,
        interaction: Interaction = "residual",
        channels: int = 1,
        finest_sees_coarse: bool = True,
    ) -> None:
        super().__init__()
        if levels not in (1, 2, 3, 4):
            raise ValueError(f"levels must be 1, 2, 3 or 4, not {levels}")
        if interaction not in ("residual", "concat"):
            raise ValueError(f'interaction must be "residual" or "concat", not {interaction!r}')
        if channels < 1:
            raise ValueError(f"channels must be at least 1, not {channels}")
        self.channels = channels
        self.sees_coarse = [n < levels and (n > 1 or finest_sees_coarse) for n in range(1, levels + 1)]
        self.levels = nn.ModuleList(
            Level(
                depth=DEEPEST + 1 - n,
                channels_in=channels * (2 if self.sees_coarse[n - 1] else 1),
                channels_out=channels,
                interaction=interaction if n < levels else None,
            )
            for n in range(1, levels + 1)
        )

    @classmethod
    def of(cls, recipe: Recipe) -> CoarseToFine:
        """The network that a recipe names."""
        return cls(recipe.levels, recipe.interaction, recipe.channels, recipe.finest_sees_coarse)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Restore `x`, float (batch, channels, Y, X) in unit range, Y and X multiples of 16.

        Returns the images of all levels, finest first: y_n has shape (batch, channels, Y / 2^(n-1), X / 2^(n-1)).
        """
        pyramid = [x]
        for _ in range(len(self.levels) - 1):
            pyramid.append(avg_pool2d(pyramid[-1], 2))
        outputs: list[Tensor] = []
        features: list[Tensor] = []
        for n in reversed(range(len(self.levels))):
            x_n = pyramid[n]
            if self.sees_coarse[n]:
                up = interpolate(outputs[0], scale_factor=2.0, mode="bilinear", align_corners=False)
                x_n = torch.cat([x_n, up], dim=1)  # eq. 3
            y_n, features = self.levels[n](x_n, features)
            outputs.insert(0, y_n)
        return outputs


@torch.no_grad()
def start_near_identity(network: CoarseToFine) -> CoarseToFine:
    """Initialise the finest level so that the untrained network passes its input on, and return the network.

    Eq. (3) has no global "+ x", so a sharp plane must be learnt to come back; from random weights that takes
    most of a training run. Here one feature of each channel carries the image through stage 0 and its skip:
    BatchNorm maps it to about 1 + 0.25 (x - mean) / std, which ReLU leaves alone, and the output undoes that for
    a plane in unit range of mean 0.2 and standard deviation 0.25. Only weights change, not the architecture.
    """
    finest = cast(Level, network.levels[0])
    stages = (*cast(EncoderStage, finest.encoder[0]), *cast(DecoderStage, finest.decoder[0]).convolutions)
    convolutions = [layer for layer in stages if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in stages if isinstance(layer, nn.BatchNorm2d)]
    for channel in range(network.channels):
        # The skip comes after the upsampled features in the decoder's input.
        sources = (channel, channel, width(0) + channel, channel)
        for convolution, source in zip(convolutions, sources, strict=True):
            convolution.weight[channel] = 0
            convolution.weight[channel, source, 1, 1] = 1
            cast(Tensor, convolution.bias)[channel] = 0
        for norm in norms:
            norm.weight[channel] = 0.25
            norm.bias[channel] = 1
        finest.output.weight[channel] *= 0.1
        finest.output.weight[channel, channel] = 1
        cast(Tensor, finest.output.bias)[channel] = 0.2 - 1
    return network
