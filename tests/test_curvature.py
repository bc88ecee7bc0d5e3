from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD

from supernet.bilevel import SupernetLoss
from supernet.curvature import dominant_eigenvalue
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace
from supernet.strategies import DARTS, GDAS, FactorisedSearch
from tests.soft_graph import SoftGraph
from tests.test_darts import HOW, batch, trained
from tests.textbook import textbook_supernet
from tests.toy import EMPTY, ToyLoss


class Bare(FactorisedSearch):
    """Its mixture is its logits, so that a quadratic of the mixture is one of the logits."""

    def forward(self) -> Tensor:
        return self.logits * 1.0


def of_supernet(network: Supernet, optimizer: SGD, recorder: Recorder | None = None) -> SupernetLoss:
    return SupernetLoss(network, optimizer, recorder or Recorder(torch.device("cpu")))


@pytest.mark.parametrize("sign", [1, -1])
def test_it_is_the_largest_in_magnitude_of_a_known_matrix(sign: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64))
    eigenvalues = torch.linspace(-2, 1, 30, dtype=torch.float64) * sign
    matrix = rotation @ torch.diag(eigenvalues) @ rotation.T
    search = Bare()
    search.bind(CellSpace(), 0)
    search.double()
    loss = ToyLoss(lambda mixture: mixture.flatten() @ matrix @ mixture.flatten() / 2)
    assert dominant_eigenvalue(search, loss, EMPTY) == pytest.approx(-2 * sign, rel=1e-12)


def test_on_a_supernet_it_is_that_of_the_hessian_by_autograd_of_the_textbook() -> None:
    network, optimizer, search = trained(HOW[0])
    images, labels = batch(11)
    hessian = torch.autograd.functional.hessian(
        lambda logits: F.cross_entropy(textbook_supernet(network, images, logits.softmax(1)), labels),
        search.logits.detach(),
    )
    eigenvalues = np.linalg.eigvalsh(hessian.reshape(30, 30).numpy())
    expected = eigenvalues[np.abs(eigenvalues).argmax()]
    assert dominant_eigenvalue(search, of_supernet(network, optimizer), (images, labels)) == pytest.approx(expected)
    assert abs(expected) > 1e-3


def test_a_search_is_left_as_it_was() -> None:
    network, optimizer, darts = trained(HOW[0])
    search = GDAS()
    search.bind(network.space, 0)
    search.double().load_state_dict(darts.state_dict())
    state, logits = search.generator.get_state(), search.logits.detach().clone()
    loss = of_supernet(network, optimizer)
    first = dominant_eigenvalue(search, loss, batch(11))
    assert search.generator.get_state().equal(state)
    assert dominant_eigenvalue(search, loss, batch(11)) == first != 0
    search()
    assert dominant_eigenvalue(search, loss, batch(11)) != first  # another draw, another function
    assert search.logits.equal(logits)
    assert all(value.grad is None for value in search.parameters())


def test_nothing_is_replayed() -> None:
    network, optimizer, search = trained(HOW[0])
    expected = dominant_eigenvalue(search, of_supernet(network, optimizer), batch(11))
    recorder = Recorder(torch.device("cpu"), SoftGraph)
    loss = of_supernet(network, optimizer, recorder)
    for _ in range(5):  # the steps of the architecture are recorded
        loss(search(), batch(11)).backward()
    assert len(recorder.recordings) == 1
    assert dominant_eigenvalue(search, loss, batch(11)) == expected
    assert len(recorder.recordings) == 1


def test_candidates_that_are_out_have_no_part_in_it() -> None:
    search = DARTS()
    search.bind(CellSpace(), 0)
    search.double()
    loss = ToyLoss(lambda mixture: mixture.square().sum() + 100 * mixture[:, 0].square().sum())
    assert dominant_eigenvalue(search, loss, EMPTY) > 1
    search.candidates[:, 0] = False
    assert 0 < dominant_eigenvalue(search, loss, EMPTY) < 1
    search.candidates[:, :4] = False  # nothing is left to choose
    assert dominant_eigenvalue(search, loss, EMPTY) == 0


def test_where_there_is_no_curvature_it_is_not_a_number() -> None:
    search = DARTS()
    search.bind(CellSpace(), 0)
    assert np.isnan(dominant_eigenvalue(search, ToyLoss(lambda mixture: (mixture * torch.nan).square().sum()), EMPTY))
