"""DeepDeblur: S. Nah, T. H. Kim, K. M. Lee, "Deep multi-scale convolutional neural network for dynamic scene
deblurring", CVPR 2017, as Wang & Han compare with it. The generator only: no discriminator, no adversarial loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

SCALES, BLOCKS, WIDTH, KERNEL = 3, 19, 64, 5


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x))): no BatchNorm, and no ReLU after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Scale(nn.Sequential):
    """conv - 19 residual blocks - conv, at one resolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, WIDTH, KERNEL, padding=KERNEL // 2),
            *(ResidualBlock() for _ in range(BLOCKS)),
            nn.Conv2d(WIDTH, channels_out, KERNEL, padding=KERNEL // 2),
        )


class Nah(nn.Module):
    """Three scales, the coarsest (a quarter) first; the output of each is upsampled by a convolution and a pixel
    shuffle and concatenated with the next finer input. 11,707,510 parameters at two channels.
    """

    multiple = 2 ** (SCALES - 1)

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.scales = nn.ModuleList(  # finest first
            Scale(channels if k == SCALES - 1 else 2 * channels, channels) for k in range(SCALES)
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, 4 * channels, KERNEL, padding=KERNEL // 2), nn.PixelShuffle(2))
            for _ in range(SCALES - 1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Restore (batch, channels, Y, X); returns the images of all scales, finest first."""
        pyramid = [x]
        for _ in range(SCALES - 1):
            pyramid.append(avg_pool2d(pyramid[-1], 2))
        outputs = [self.scales[-1](pyramid[-1])]
        for k in reversed(range(SCALES - 1)):
            outputs.insert(0, self.scales[k](torch.cat([pyramid[k], self.up[k](outputs[0])], dim=1)))
        return outputs
