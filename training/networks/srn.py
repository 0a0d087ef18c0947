"""SRN and MRN of G. Na et al., Acta Materialia 2021, as Wang & Han compare with them.

Width, kernel and loss are not published. 64 channels, 3x3, no BatchNorm, bilinear upsampling and concatenation between
the scales are our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

BLOCKS, WIDTH = 16, 64


class ResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Scale(nn.Module):
    """conv - ReLU - 16 residual blocks - conv, a long skip over these, and a conv to the image."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(channels_in, WIDTH, 3, padding=1), nn.ReLU(inplace=True))
        self.body = nn.Sequential(*(ResidualBlock() for _ in range(BLOCKS)), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self.output = nn.Conv2d(WIDTH, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x)
        return self.output(features + self.body(features))


class SRN(nn.Module):
    """One scale."""

    multiple = 1

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.scale = Scale(channels, channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Restore (batch, channels, Y, X); a list of the one image."""
        return [self.scale(x)]


class MRN(nn.Module):
    """Three of them, at a quarter, half and full resolution, the coarsest first; 3,665,286 parameters at 2 channels."""

    multiple = 4

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Scale(channels if k == 2 else 2 * channels, channels) for k in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Restore (batch, channels, Y, X); returns the images of all scales, finest first."""
        pyramid = [x, avg_pool2d(x, 2), avg_pool2d(x, 4)]
        outputs = [self.scales[2](pyramid[2])]
        for k in (1, 0):
            up = interpolate(outputs[0], scale_factor=2.0, mode="bilinear", align_corners=False)
            outputs.insert(0, self.scales[k](torch.cat([pyramid[k], up], dim=1)))
        return outputs
