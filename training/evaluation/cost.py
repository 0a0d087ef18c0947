"""What a network costs: parameters, arithmetic of one plane, time beside another network."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PLANE = (528, 704)  # 520 x 696 padded to multiples of 16


@dataclass(frozen=True)
class Cost:
    """Parameters, GFLOP (two for each multiply-add) of one plane of `PLANE`, and time relative to the first network."""

    parameters: int
    gflop: float
    time_ratio: float


def parameters(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def gflop(network: nn.Module, shape: tuple[int, int] = PLANE, channels: int = 1) -> float:
    """GFLOP of one plane (Y, X), counted on torch's meta device, where nothing is computed."""
    counter = FlopCounterMode(display=False)
    weightless = copy.deepcopy(network).to("meta").eval()
    with counter, torch.no_grad():
        weightless(torch.empty(1, channels, *shape, device="meta"))
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def time_ratios(networks: Sequence[tuple[nn.Module, int]], shape: tuple[int, int], rounds: int = 3) -> list[float]:
    """Median time of each (network, input channels) over that of the first, taken in turns in this process."""
    times: list[list[float]] = [[] for _ in networks]
    for network, channels in networks:
        network.eval()(torch.rand(1, channels, 64, 64))
    for _ in range(rounds):
        for (network, channels), taken in zip(networks, times, strict=True):
            x = torch.rand(1, channels, *shape)
            start = time.perf_counter()
            network(x)
            taken.append(time.perf_counter() - start)
    medians = [float(np.median(taken)) for taken in times]
    return [median / medians[0] for median in medians]
