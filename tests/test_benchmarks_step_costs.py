from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.searches import methods
from benchmarks.step_costs import Macs, macs_of_a_step, main
from supernet.data import SearchData
from supernet.network import Supernet

TINY = ["--channels", "2", "--num_cells", "1", "--steps", "2"]


def test_it_counts_what_the_counter_of_pytorch_counts() -> None:
    network, images = Supernet(channels=2, num_cells=1), torch.randn(2, 3, 32, 32)
    mixture = torch.full((6, 5), 0.2, requires_grad=True)
    with Macs() as ours, FlopCounterMode(display=False) as theirs:
        F.cross_entropy(network(images, mixture), torch.tensor([0, 1])).backward()
    assert ours.total == theirs.get_total_flops() / 2


def test_a_dense_step_costs_the_same_for_each_image_of_any_batch() -> None:
    known, data = methods(), SearchData("cifar10")
    size = {"channels": 2, "num_cells": 1}
    darts = {**known["darts"], "model": known["darts"]["model"] | size}
    assert macs_of_a_step(darts, data, 1, 2) == macs_of_a_step(darts, data, 2, 4)


def test_the_table_has_a_row_for_each_search_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    main([*TINY, "--searches", "enas", "random"])
    rows = capsys.readouterr().out.strip().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["enas", "random"]
    assert rows[1].split("|")[3].strip() == "1.0"
