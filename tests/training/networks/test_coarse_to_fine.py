"""The network against network.md: parameter counts to the unit, gradients, sizes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason='needs PyTorch: pip install ".[train]"')

from torch.nn.functional import max_pool2d  # noqa: E402

from defocus.training.networks.coarse_to_fine import CoarseToFine, Level, start_near_identity  # noqa: E402

COUNTS = {  # (interaction, finest_sees_coarse): N = 1, 2, 3, 4 at 2 channels
    ("residual", True): (1_942_962, 2_426_116, 2_543_766, 2_569_800),
    ("residual", False): (1_942_962, 2_425_828, 2_543_478, 2_569_512),
    ("concat", True): (1_942_962, 2_716_420, 2_903_190, 2_943_048),
    ("concat", False): (1_942_962, 2_716_132, 2_902_902, 2_942_760),
}
VARIANTS = [(*kind, n) for kind in COUNTS for n in (1, 2, 3, 4)]
PARTS = {  # of U(5) with 2 channels in
    "encoder.0": 2_688,
    "encoder.1": 14_016,
    "encoder.2": 55_680,
    "encoder.3": 221_952,
    "encoder.4": 886_272,
    "decoder.3": 131_200 + 442_624,
    "decoder.2": 32_832 + 110_720,
    "decoder.1": 8_224 + 27_712,
    "decoder.0": 2_064 + 6_944,
    "output": 34,
}


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("interaction", "sees", "n"), VARIANTS)
def test_parameter_counts_of_table_1(interaction, sees, n):
    assert count(CoarseToFine(n, interaction, 2, sees)) == COUNTS[interaction, sees][n - 1]


@pytest.mark.parametrize(("depth", "expected"), [(5, 1_942_962), (4, 482_866), (3, 117_362), (2, 25_746)])
def test_parameter_counts_of_the_levels(depth, expected):
    assert count(Level(depth, 2, 2, None)) == expected
    assert count(Level(depth, 4, 2, None)) == expected + 288


@pytest.mark.parametrize(("part", "expected"), PARTS.items())
def test_parameter_counts_of_the_stages(part, expected):
    assert count(Level(5, 2, 2, None).get_submodule(part)) == expected


def test_frozen_statistics_are_folded_into_the_convolutions():
    torch.manual_seed(0)
    network = CoarseToFine(2, "residual", 1).double()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    passes = []
    for norm in norms:
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            torch.nn.init.uniform_(tensor, 0.5, 2.0)
        norm.register_forward_hook(lambda *_: passes.append(1))
    x = torch.rand(2, 1, 32, 48, dtype=torch.double)
    results = []
    for training in (False, True):
        network.train(training)
        for norm in norms:
            norm.eval()
        passes.clear()
        outputs = network(x)
        total = torch.stack([output.square().sum() for output in outputs]).sum()
        assert len(passes) == (0 if training else len(norms))  # in training no pass over the feature maps is left
        results.append([*outputs, *torch.autograd.grad(total, list(network.parameters()))])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize(("interaction", "sees", "n"), VARIANTS)
def test_gradient_reaches_every_parameter(interaction, sees, n):
    torch.manual_seed(0)
    network = CoarseToFine(n, interaction, 2, sees)
    outputs = network(torch.rand(2, 2, 32, 48))
    sum(((output - 0.5) ** 2).sum() for output in outputs).backward()  # type: ignore[union-attr]
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_finest_output_alone_depends_on_every_level():
    """What is exported is y_1; the coarser levels must matter to it through features and upsampled outputs."""
    torch.manual_seed(0)
    network = CoarseToFine(4, "residual", 1)
    network(torch.rand(2, 1, 32, 32))[0].square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("interaction", ["residual", "concat"])
def test_features_of_the_coarser_level_enter_by_equations_6_and_7(interaction):
    """D_{i-1} of level n+1 is added to what enters stage i of level n (eq. 6), or joined to what leaves it (eq. 7)."""
    torch.manual_seed(0)
    network = CoarseToFine(4, interaction, 1)
    enters, leaves, decoded = {}, {}, {}
    for n, level in enumerate(network.levels):
        for i, stage in enumerate(level.encoder):  # type: ignore[arg-type, union-attr]
            stage.register_forward_pre_hook(lambda _, x, key=(n, i): enters.update({key: x[0]}))
            stage.register_forward_hook(lambda _, x, y, key=(n, i): leaves.update({key: y}))
        for i, stage in enumerate(level.decoder):  # type: ignore[arg-type, union-attr]
            stage.register_forward_hook(lambda _, x, y, key=(n, i): decoded.update({key: y}))
    network(torch.rand(2, 1, 32, 48))
    links = 0
    for n, i in enters:
        if i == 0:
            continue
        before = leaves[n, i - 1]
        if interaction == "concat" and n < 3 and 1 <= i - 1 <= 5 - n - 2:
            before, links = torch.cat([before, decoded[n + 1, i - 2]], 1), links + 1
        expected = max_pool2d(before, 2)
        if interaction == "residual" and n < 3 and 1 <= i <= 5 - n - 2:
            expected, links = expected + decoded[n + 1, i - 1], links + 1
        torch.testing.assert_close(enters[n, i], expected)
    assert links == 3 + 2 + 1


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_each_level_has_its_own_size(n, channels):
    outputs = CoarseToFine(n, "residual", channels)(torch.rand(1, channels, 48, 80))
    assert [tuple(y.shape) for y in outputs] == [(1, channels, 48 // 2**i, 80 // 2**i) for i in range(n)]


@pytest.mark.parametrize("wrong", [{"levels": 0}, {"levels": 5}, {"interaction": "sum"}, {"channels": 0}])
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError):
        CoarseToFine(**wrong)


def test_it_starts_near_identity():
    torch.manual_seed(0)
    image = torch.rand(4, 2, 64, 64) * 0.9
    image = 0.2 + 0.25 * (image - image.mean()) / image.std()
    network = start_near_identity(CoarseToFine(4, "residual", 2))
    error = (network(image)[0] - image).square().mean().sqrt()
    plain = (CoarseToFine(4, "residual", 2)(image)[0] - image).square().mean().sqrt()
    assert error < 0.1 < plain
    assert count(network) == COUNTS["residual", True][3]
