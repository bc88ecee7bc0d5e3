from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from supernet.keep import random_state, set_random_state


def draws() -> list[float]:
    return [random.random(), random.gauss(), float(np.random.rand()), float(np.random.randn()), float(torch.rand(()))]  # noqa: NPY002


def test_all_global_generators_go_on_from_a_file_that_holds_tensors_and_plain_values(tmp_path: Path) -> None:
    draws()  # each normal variate is one of two: the other one waits
    torch.save(random_state(), tmp_path / "state")
    first = draws()
    assert draws() != first
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draws() == first
