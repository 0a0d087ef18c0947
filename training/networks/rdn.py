"""RDN: Y. Zhang et al., "Residual dense network for image super-resolution", CVPR 2018, without its upsampler: what
H. Zhao et al., J. Biophotonics 2020, restore defocused microscopy with, as Wang & Han compare with it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH = 64  # of the features between the blocks


class DenseBlock(nn.Module):
    """C convolutions that each see all before them, a 1x1 fusion and a local skip."""

    def __init__(self, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(WIDTH + i * growth, growth, 3, padding=1) for i in range(layers))
        self.fusion = nn.Conv2d(WIDTH + layers * growth, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(torch.relu(layer(torch.cat(features, dim=1))))
        return x + self.fusion(torch.cat(features, dim=1))


class RDN(nn.Module):
    """D dense blocks of C layers and growth G between two shallow convolutions, fused globally.

    The full size, D = 16, C = 8, G = 64, has 21,974,530 parameters at two channels; the light one, D = 20, C = 6,
    G = 32, has 5,467,650.
    """

    multiple = 1

    def __init__(self, channels: int = 1, blocks: int = 16, layers: int = 8, growth: int = 64) -> None:
        super().__init__()
        self.shallow_1 = nn.Conv2d(channels, WIDTH, 3, padding=1)
        self.shallow_2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(DenseBlock(layers, growth) for _ in range(blocks))
        self.fusion = nn.Sequential(nn.Conv2d(blocks * WIDTH, WIDTH, 1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1))
        self.output = nn.Conv2d(WIDTH, channels, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Restore (batch, channels, Y, X); a list of the one image."""
        shallow = self.shallow_1(x)
        feature, features = self.shallow_2(shallow), []
        for block in self.blocks:
            feature = block(feature)
            features.append(feature)
        return [self.output(self.fusion(torch.cat(features, dim=1)) + shallow)]
