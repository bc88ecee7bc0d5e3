from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.func import grad

from supernet.errors import SupernetError
from supernet.ranks import add_up, average, is_the_same, largest, rank, spread, sum_over_ranks, total, world_size
from tests.together import begin, end, said, together

HOST = torch.device("cpu")


def part(number: int) -> Tensor:
    """What a rank has of a whole, which is known to all."""
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def exchange() -> dict[str, Any]:
    mine = part(rank())
    wide = torch.full((2, 3, 4, 4), float(rank())).to(memory_format=torch.channels_last)
    tensors = [mine.clone(), torch.tensor(3.0 + rank()), wide.clone(memory_format=torch.preserve_format)]
    add_up(tensors)
    means = [mine.clone(), torch.tensor(3.0 + rank()), wide.clone(memory_format=torch.preserve_format)]
    average(means)
    spread([mine, wide])
    return {
        "rank": (rank(), world_size()),
        "sums": tensors,
        "means": means,
        "spread": [mine, wide],
        "largest": largest([rank(), -rank(), 7], HOST),
        "total": total(10 + rank(), HOST),
        "same": (is_the_same(5, HOST), is_the_same(rank(), HOST), is_the_same(2**62 + rank(), HOST)),
    }


def test_what_ranks_do_together(tmp_path: Path) -> None:
    found = together(tmp_path, exchange)
    parts = [part(0), part(1)]
    for number, seen in enumerate(found):
        assert seen["rank"] == (number, 2)
        torch.testing.assert_close(seen["sums"][0], parts[0] + parts[1])
        torch.testing.assert_close(seen["means"][0], (parts[0] + parts[1]) / 2)
        assert (float(seen["sums"][1]), float(seen["means"][1])) == (7.0, 3.5)
        assert seen["sums"][2].eq(1).all()
        assert seen["means"][2].eq(0.5).all()
        assert seen["means"][2].is_contiguous(memory_format=torch.channels_last)
        assert seen["spread"][0].equal(parts[0])
        assert seen["spread"][1].eq(0).all()
        assert seen["largest"] == [1, 0, 7]
        assert seen["total"] == 21
        assert seen["same"] == (True, False, False)


def slopes() -> dict[str, Any]:
    # f = sum over ranks of (total ** 3 * own), total = sum over ranks of own: every rank has a part in every term.
    mine = part(rank()).requires_grad_()
    output = (sum_over_ranks(mine) ** 3 * mine).sum()
    (first,) = torch.autograd.grad(output, mine, create_graph=True)
    (second,) = torch.autograd.grad((first * part(2)).sum(), mine)

    def f(values: Tensor) -> Tensor:
        return (sum_over_ranks(values) ** 3 * values).sum()

    return {"first": first.detach(), "second": second, "func": grad(f)(mine.detach())}


def test_a_sum_over_ranks_has_the_gradients_of_the_sum_of_all_outputs_twice(tmp_path: Path) -> None:
    found = together(tmp_path, slopes)
    parts = [part(number).requires_grad_() for number in range(2)]
    output = sum(((parts[0] + parts[1]) ** 3 * own).sum() for own in parts)
    assert isinstance(output, Tensor)
    first = torch.autograd.grad(output, parts, create_graph=True)
    second = torch.autograd.grad(sum((slope * part(2)).sum() for slope in first), parts)  # type: ignore[arg-type]
    for number, seen in enumerate(found):
        torch.testing.assert_close(seen["first"], first[number].detach())
        torch.testing.assert_close(seen["second"], second[number])
        torch.testing.assert_close(seen["func"], first[number].detach())


def one_message() -> int:
    calls = 0
    all_reduce = dist.all_reduce

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return all_reduce(*args)

    setattr(dist, "all_reduce", counted)  # noqa: B010  another type
    average([torch.ones(size) for size in range(1, 50)])
    return calls


def test_many_tensors_are_one_message(tmp_path: Path) -> None:
    assert together(tmp_path, one_message) == [1, 1]


def test_one_process_is_left_alone() -> None:
    values = torch.randn(3, requires_grad=True)
    assert sum_over_ranks(values) is values
    before = values.detach().clone()
    for change in (add_up, average, spread):
        change([values])
    assert values.equal(before)
    assert (rank(), world_size(), total(3, HOST), largest([3, -1], HOST)) == (0, 1, 3, [3, -1])
    assert is_the_same(3, HOST)


def leave() -> None:
    if rank() == 1:
        return  # without having met
    with pytest.raises(SupernetError) as error:
        average([torch.ones(3)])
    print(error.value)


def test_a_rank_that_is_left_alone_says_so_in_one_sentence(tmp_path: Path) -> None:
    assert end(begin(tmp_path, leave), 60) == [0, 0]
    assert "rank 0 lost another rank, or waited for it in vain: look for what that one said" in said(tmp_path, 0)
    assert len(said(tmp_path, 0).splitlines()) == 1
