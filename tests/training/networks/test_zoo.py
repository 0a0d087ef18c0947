"""The compared networks: parameter counts, shapes, gradients, names."""

from __future__ import annotations

from typing import cast

import pytest

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')

from defocus.engine.errors import InputError  # noqa: E402
from defocus.training.fit.loss import content_loss  # noqa: E402
from defocus.training.networks.zoo import METHODS, NAMES, build  # noqa: E402

# At two channels (shared reference: network.md). Ours see the coarser output at every level (eq. 3).
PARAMETERS = {
    "residual-1": 1_942_962,
    "residual-2": 2_426_116,
    "residual-3": 2_543_766,
    "residual-4": 2_569_800,
    "concat-2": 2_716_420,
    "concat-3": 2_903_190,
    "concat-4": 2_943_048,
    "nah": 11_707_510,
    "rdn": 21_974_530,
    "rdn-light": 5_467_650,
    "srn": 1_220_994,
    "mrn": 3_665_286,
    "dncnn": 557_250,
    "denoiser": 557_826,  # 3 x 3 x 64 more, for the noise level
    "unet": 1_942_962,
    "concat-1": 1_942_962,
}


def test_every_network_is_counted():
    assert set(PARAMETERS) == set(NAMES)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    with torch.device("meta"):
        network = build(name, 2)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_finest_first_and_halve(name, channels):
    with torch.device("meta"):
        network = build(name, channels)
        extra = 1 if name == "denoiser" else 0
        outputs = network(torch.empty(2, channels + extra, 64, 96))
    assert isinstance(network.multiple, int)
    assert 64 % network.multiple == 0
    for n, output in enumerate(outputs):
        assert output.shape == (2, channels, 64 // 2**n, 96 // 2**n)


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_reaches_every_parameter(name):
    torch.manual_seed(0)
    network = build(name, 1)
    side = max(8, 2 * cast(int, network.multiple))
    x = torch.rand(2, 2 if name == "denoiser" else 1, side, side)
    content_loss(network(x), torch.rand(2, 1, side, side)).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("name", ["nah", "mrn"])
def test_the_finest_image_alone_depends_on_every_scale(name):
    torch.manual_seed(0)
    network = build(name, 1)
    network(torch.rand(1, 1, 16, 16))[0].square().sum().backward()
    assert [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("name", METHODS)
def test_any_multiple_will_do(name):
    with torch.device("meta"):
        network = build(name, 1)
        side = 3 * cast(int, network.multiple)
        output = network(torch.empty(2, 2 if name == "denoiser" else 1, side, 2 * side))[0]
    assert output.shape == (2, 1, side, 2 * side)


def test_the_logarithm_of_the_square_is_psnr():
    sharp = torch.rand(2, 1, 16, 16)
    output = sharp + 0.1 * torch.tensor([1.0, 0.1]).reshape(2, 1, 1, 1)
    loss = content_loss([output], sharp, distance="log-mse")
    assert float(loss) == pytest.approx(-(20 + 40) / 2 / 10 * 2.302585, abs=0.01)  # PSNR of 20 and 40 dB


def test_names_and_titles_are_told_apart():
    assert len({known.title for known in METHODS.values()}) == len(METHODS)
    assert all(known.source for known in METHODS.values())
    with pytest.raises(InputError, match='did you mean "residual-4"'):
        build("residul-4", 1)
    with pytest.raises(InputError, match="choose from"):
        build("xyz", 1)
