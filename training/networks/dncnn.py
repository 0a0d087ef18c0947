"""DnCNN: K. Zhang et al., "Beyond a Gaussian denoiser", IEEE TIP 26, 3142 (2017).

Two readings of Liu et al. (Optics Express 2020) need it: a residual CNN that restores by itself, and the denoiser
within a plug-and-play ADMM, which is told how strong the noise is.
"""

from __future__ import annotations

from torch import Tensor, nn

DEPTH, WIDTH = 17, 64


class DnCNN(nn.Module):
    """x + body(x); the body is 17 convolutions of width 64 with BatchNorm between. 557,250 parameters at two channels.

    Parameters
    ----------
    channels : int
        Of the image.
    extra : int
        Further input channels, after those of the image: the denoiser's noise level.
    """

    multiple = 1

    def __init__(self, channels: int = 1, extra: int = 0) -> None:
        super().__init__()
        self.channels = channels
        middle = [
            layer
            for _ in range(DEPTH - 2)
            for layer in (
                nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
                nn.BatchNorm2d(WIDTH),
                nn.ReLU(inplace=True),
            )
        ]
        self.body = nn.Sequential(
            nn.Conv2d(channels + extra, WIDTH, 3, padding=1),
            nn.ReLU(inplace=True),
            *middle,
            nn.Conv2d(WIDTH, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Restore (batch, channels + extra, Y, X); a list of the one image."""
        return [x[:, : self.channels] + self.body(x)]
