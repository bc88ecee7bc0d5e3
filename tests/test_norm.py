from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from supernet.genotype import Genotype
from supernet.network import Network, Supernet
from supernet.norm import BatchNorm2d, batch_norm
from supernet.ranks import rank
from tests.together import together

CHANNELS = 3
SIZES = (5, 2)
"""Images of each rank: the parts need not be equal."""
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False, "eps": 1e-3},
]


def numbers(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(sum(SIZES), CHANNELS, 4, 5, generator=generator, dtype=dtype)


def make(kind: type[nn.BatchNorm2d], options: dict[str, Any], dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    module = kind(CHANNELS, **options).to(dtype)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def look(module: nn.BatchNorm2d, mine: slice) -> dict[str, Any]:
    """Outputs, gradients, gradients of gradients, statistics and evaluation of a module on a part of the images."""
    parameters = list(module.parameters())
    for step in range(2):
        inputs = numbers(step)[mine].requires_grad_()
        outputs = module(inputs)
    loss = (outputs * numbers(10)[mine]).square().sum()
    first = torch.autograd.grad(loss, [inputs, *parameters], create_graph=True)
    # No parameter enters: their gradients are parts, which add up over ranks only later.
    second = torch.autograd.grad((first[0] * numbers(11)[mine]).sum(), [inputs, *parameters])
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        evaluated = module.eval()(numbers(12)[mine])
    return {
        "outputs": outputs.detach(),
        "inputs": [first[0].detach(), second[0]],
        "parameters": [value.detach() for value in (*first[1:], *second[1:])],
        "state": state,
        "evaluated": evaluated,
    }


def on_a_rank() -> list[Any]:
    mine = slice(*((0, SIZES[0]) if rank() == 0 else (SIZES[0], None)))
    seen: list[Any] = []
    for options in OPTIONS:
        module = make(BatchNorm2d, options)
        assert isinstance(module, BatchNorm2d)
        module.synchronised = True
        seen.append(look(module, mine))
    seen.append([look(make(BatchNorm2d, options), mine) for options in OPTIONS])
    scale = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    seen.append([batch_norm(numbers(0)[mine], scale, synchronised=on) for on in (True, False)])
    far = (1e4 + numbers(0)).float()[mine]
    seen.append([batch_norm(far, None, synchronised=True), batch_norm(far.bfloat16() - 1e4, None, synchronised=True)])
    module = make(BatchNorm2d, {"track_running_stats": False})  # a transform may not change what it does not know
    assert isinstance(module, BatchNorm2d)
    module.synchronised = True

    def loss(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        values: Tensor = functional_call(module, parameters, inputs)
        return values.square().sum()

    with torch.no_grad():
        seen.append(grad(loss, argnums=1)(dict(module.named_parameters()), numbers(0)[mine]))
    return seen


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    return together(tmp_path_factory.mktemp("norm"), on_a_rank)


def close(ours: list[Tensor], theirs: Tensor) -> None:
    torch.testing.assert_close(torch.cat(ours), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", range(len(OPTIONS)), ids=lambda case: str(OPTIONS[case]))
def test_ranks_normalise_as_one_device_does_with_all_their_images(ranks: list[list[Any]], case: int) -> None:
    one = look(make(nn.BatchNorm2d, OPTIONS[case]), slice(None))
    ours = [seen[case] for seen in ranks]
    for what in ("outputs", "evaluated") if OPTIONS[case].get("track_running_stats", True) else ("outputs",):
        close([seen[what] for seen in ours], one[what])
    for order in range(2):
        close([seen["inputs"][order] for seen in ours], one["inputs"][order])
    for which, expected in enumerate(one["parameters"]):
        torch.testing.assert_close(sum(seen["parameters"][which] for seen in ours), expected, rtol=1e-10, atol=1e-10)
    for seen in ours:
        assert seen["state"].keys() == one["state"].keys()
        for name, value in one["state"].items():
            torch.testing.assert_close(seen["state"][name], value, rtol=1e-12, atol=1e-12)


def test_without_synchronisation_each_rank_is_alone_bit_for_bit(ranks: list[list[Any]]) -> None:
    for seen, mine in zip(ranks, (slice(0, SIZES[0]), slice(SIZES[0], None)), strict=True):
        for options, ours in zip(OPTIONS, seen[len(OPTIONS)], strict=True):
            theirs = look(make(nn.BatchNorm2d, options), mine)
            assert ours["outputs"].equal(theirs["outputs"])
            assert ours["evaluated"].equal(theirs["evaluated"])
            assert all(value.equal(theirs["state"][name]) for name, value in ours["state"].items())
            for which in ("inputs", "parameters"):
                assert all(a.equal(b) for a, b in zip(ours[which], theirs[which], strict=True))


def test_a_search_cell_normalises_by_the_same_statistics(ranks: list[list[Any]]) -> None:
    scale = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    whole, *_ = [F.batch_norm(numbers(0), None, None, weight=scale, training=True)]
    close([seen[len(OPTIONS) + 1][0] for seen in ranks], whole)
    for seen, mine in zip(ranks, (slice(0, SIZES[0]), slice(SIZES[0], None)), strict=True):
        alone = F.batch_norm(numbers(0)[mine], None, None, weight=scale, training=True)
        assert seen[len(OPTIONS) + 1][1].equal(alone)


def test_a_mean_far_from_zero_costs_no_digits(ranks: list[list[Any]]) -> None:
    far = (1e4 + numbers(0)).float()
    exact = F.batch_norm(far.double(), None, None, training=True).float()
    torch.testing.assert_close(torch.cat([seen[len(OPTIONS) + 2][0] for seen in ranks]), exact, rtol=1e-3, atol=1e-3)


def test_bfloat16_keeps_its_type_and_has_statistics_in_float32(ranks: list[list[Any]]) -> None:
    rough = (1e4 + numbers(0)).float().bfloat16() - 1e4
    found = torch.cat([seen[len(OPTIONS) + 2][1] for seen in ranks])
    assert found.dtype == torch.bfloat16
    exact = F.batch_norm(rough.double(), None, None, training=True)
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)


def test_functional_transforms_work(ranks: list[list[Any]]) -> None:
    module, inputs = make(nn.BatchNorm2d, {}), numbers(0).requires_grad_()
    module(inputs).square().sum().backward()
    assert inputs.grad is not None
    close([seen[len(OPTIONS) + 3] for seen in ranks], inputs.grad)


def test_a_network_says_it_to_all_its_layers_and_keeps_its_names() -> None:
    for network in (Supernet(channels=2, num_cells=1), Network(Genotype.from_index(6111), 2, 1)):
        with_flag = [module for module in network.modules() if hasattr(module, "synchronised")]
        normalising = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert {*normalising} <= {*with_flag}
        assert not any(module.synchronised for module in with_flag)
        names = list(network.state_dict())
        network.synchronise(True)
        assert all(module.synchronised for module in with_flag)
        assert list(network.state_dict()) == names
    assert len(with_flag) == len(normalising)  # a discovered cell is made of modules
