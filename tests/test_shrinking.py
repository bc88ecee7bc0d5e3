"""Candidates that go while a search goes on: by what is least likely, and by what the supernet loses without them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Trainer, seed_everything
from torch import Tensor

from supernet.data import SearchData
from supernet.errors import SupernetError
from supernet.genotype import Genotype
from supernet.keep import LastCheckpoint
from supernet.module import SearchModule
from supernet.space import CellSpace, is_connected
from supernet.strategies import DARTS, GDAS, RandomSearch, SearchStrategy
from supernet.terms import Perturbation, SearchTerm, Shrink
from supernet.terms.shrinking import open_after, shrunk
from tests.test_resume import differences

SPACES = [CellSpace(), CellSpace(3, ("skip_connect", "none")), CellSpace(4, ("none", "nor_conv_3x3", "skip_connect"))]


def never(cell: Tensor) -> float:
    raise AssertionError("nothing has to be scored")


def shrink(search: SearchStrategy, term: SearchTerm, num_epochs: int) -> list[Tensor]:
    """The candidates after each epoch."""
    seen = []
    for epoch in range(num_epochs):
        term.start_epoch(epoch, num_epochs)
        term.start_epoch(epoch, num_epochs)  # a resumed run says it twice
        term.end_epoch(search, never, epoch, num_epochs)
        seen.append(search.candidates)
    return seen


def bound(term: SearchTerm, search: SearchStrategy, space: CellSpace | None = None, seed: int = 0) -> SearchTerm:
    search.bind(space or CellSpace(), seed)
    term.bind(search, seed + 1)
    return term


@pytest.mark.parametrize(
    ("num_left", "first", "epochs", "numbers"),
    [
        (1, 0, 10, [5, 4, 4, 3, 3, 2, 2, 1, 1, 1]),
        (1, 0, 5, [4, 3, 2, 1, 1]),
        (3, 2, 8, [5, 5, 5, 4, 4, 3, 3, 3]),
        (5, 0, 2, [5, 5]),
    ],
)
def test_every_edge_loses_one_candidate_at_evenly_spaced_epochs(
    num_left: int, first: int, epochs: int, numbers: list[int]
) -> None:
    search = DARTS()
    found = shrink(search, bound(Shrink(num_left, first), search), epochs)
    assert [sorted({*candidates.sum(dim=1).tolist()}) for candidates in found] == [[number] for number in numbers]
    for before, after in itertools.pairwise(found):
        assert not (after & ~before).any()


@given(seed=st.integers(0, 100), num_left=st.integers(1, 4))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_what_is_left_is_what_is_likeliest(seed: int, num_left: int) -> None:
    # On edges that need not keep a way open: where every edge has another operation among its likeliest.
    probabilities = torch.rand(6, 5, generator=torch.Generator().manual_seed(seed))
    probabilities[:, 0] = 0.0
    found = shrunk(CellSpace(), torch.ones(6, 5, dtype=torch.bool), probabilities, num_left, frozenset())
    assert found.equal(probabilities >= probabilities.sort(dim=1).values[:, 5 - num_left, None])


@given(space=st.sampled_from(SPACES), seed=st.integers(0, 10_000), num_left=st.integers(1, 5), avoid=st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_connected_cell_is_always_left(space: CellSpace, seed: int, num_left: int, avoid: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(space.num_edges, space.num_ops, generator=generator)
    probabilities[:, space.ops.index("none")] *= 3  # mostly the likeliest
    candidates = torch.ones(space.num_edges, space.num_ops, dtype=torch.bool)
    avoided = frozenset({"none"} if avoid else ())
    for left in range(space.num_ops, min(num_left, space.num_ops) - 1, -1):
        candidates = shrunk(space, candidates, probabilities, left, avoided)
    assert candidates.sum(dim=1).tolist() == [min(num_left, space.num_ops)] * space.num_edges
    columns = [torch.nonzero(row)[:, 0].tolist() for row in candidates]
    cells = (space.genotype(choices) for choices in itertools.islice(itertools.product(*columns), 5**6))
    assert any(is_connected(cell) and not (avoid and "none" in cell.ops) for cell in cells)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_whether_a_connected_cell_is_left_is_what_enumeration_says(seed: int) -> None:
    space = CellSpace(4, ("none", "skip_connect"))
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.rand(6, 2, generator=generator) < 0.6
    edge, row = seed % 6, torch.rand(2, generator=generator) < 0.6
    after = candidates.clone()
    after[edge] = row
    columns = [torch.nonzero(each)[:, 0].tolist() for each in after]
    cells = [space.genotype(choices) for choices in itertools.product(*columns)]
    assert open_after(space, candidates, edge, row) == any(map(is_connected, cells))
    assert open_after(space, candidates, edge, row, frozenset({"none"})) == any(
        "none" not in cell.ops for cell in cells
    )


@pytest.mark.parametrize("strategy", [DARTS, GDAS])
def test_what_was_taken_off_is_in_no_mixture_and_in_no_derived_cell(strategy: type[SearchStrategy]) -> None:
    search = strategy()
    shrink(search, bound(Shrink(), search), 10)
    (row,) = {tuple(row) for row in [search.candidates.sum(dim=1).tolist()]}
    assert row == (1,) * 6
    choices = search.candidates.float().argmax(dim=1).tolist()
    assert not bool((search().detach()[~search.candidates] != 0).any())
    assert search.derive(never) == CellSpace().genotype(choices)  # type: ignore[arg-type]


def test_the_gradient_of_what_is_left_stays_finite() -> None:
    for search in (DARTS(), GDAS()):
        term = bound(Shrink(2), search)
        shrink(search, term, 4)
        (slope,) = torch.autograd.grad(search().square().sum(), search.logits)
        assert slope.isfinite().all()
        assert not slope[~search.candidates].any()


def test_shrinking_refuses_what_it_cannot_do() -> None:
    with pytest.raises(SupernetError, match="for RandomSearch all operations are equally likely; Perturbation asks"):
        bound(Shrink(), RandomSearch())
    with pytest.raises(SupernetError, match="num_left must be at least 1, got 0"):
        Shrink(0)
    with pytest.raises(SupernetError, match="num_left must be at most 5, got 6"):
        bound(Shrink(6), DARTS())
    with pytest.raises(SupernetError, match=r"Shrink needs 7 epochs, .* got 6; pass --trainer.max_epochs"):
        bound(Shrink(1, first_epochs=2), DARTS()).start_epoch(0, 6)


class Planted:
    """A supernet whose accuracy falls by so much for each operation that its mixture lacks."""

    def __init__(self, hurts: Tensor) -> None:
        self.hurts, self.asked = hurts, 0

    def __call__(self, mixture: Tensor) -> float:
        self.asked += 1
        return 1 - float((self.hurts * (mixture == 0)).sum())


def decide(search: SearchStrategy, term: SearchTerm, score: Planted, epochs: range, num_epochs: int = 8) -> list[int]:
    """How many edges have one candidate after each epoch."""
    numbers = []
    for epoch in epochs:
        term.start_epoch(epoch, num_epochs)
        term.end_epoch(search, score, epoch, num_epochs)
        numbers.append(int((search.candidates.sum(dim=1) == 1).sum()))
    return numbers


@pytest.mark.parametrize("strategy", [DARTS, GDAS, RandomSearch])
def test_the_operation_that_hurts_most_is_kept_and_not_the_likeliest(strategy: type[SearchStrategy]) -> None:
    search, term = strategy(), Perturbation(2, 1)
    bound(term, search)
    generator = torch.Generator().manual_seed(4)
    cell = torch.randint(1, 5, (6,), generator=generator)
    if strategy is not RandomSearch:
        with torch.no_grad():  # the logits are sure of another one
            search.get_parameter("logits").copy_(4.0 * torch.nn.functional.one_hot((cell + 1) % 5, 5))
    score = Planted(0.01 * torch.rand(6, 5, generator=generator) + 0.05 * torch.nn.functional.one_hot(cell, 5))
    assert decide(search, term, score, range(8)) == [0, 1, 2, 3, 4, 5, 6, 6]
    assert search.candidates.float().argmax(dim=1).tolist() == cell.tolist()
    assert score.asked == 30
    assert search.derive(never) == CellSpace().genotype(cell.tolist())  # type: ignore[arg-type]


def test_equals_are_told_apart_by_what_is_likelier_and_the_way_stays_open() -> None:
    search, term = DARTS(), Perturbation(1, 1)
    bound(term, search)
    with torch.no_grad():
        search.logits.copy_(torch.tensor([3.0, 0.0, 2.0, 1.0, -1.0]))
    decide(search, term, Planted(torch.zeros(6, 5)), range(7), 7)
    found = CellSpace().genotype(search.candidates.float().argmax(dim=1).tolist())
    assert is_connected(found)
    assert set(found.ops) == {"none", "nor_conv_1x1"}


def test_decisions_are_tune_epochs_apart_and_the_architecture_rests_from_the_first_one_on() -> None:
    search, term = DARTS(), Perturbation(3, 2)
    bound(term, search)
    halts = []
    for epoch in range(15):
        term.start_epoch(epoch, 15)
        halts.append(term.halts)
    assert halts == [False] * 3 + [True] * 12
    assert decide(search, term, Planted(torch.rand(6, 5)), range(15), 15) == [
        0,
        0,
        1,
        1,
        2,
        2,
        3,
        3,
        4,
        4,
        5,
        5,
        6,
        6,
        6,
    ]
    with pytest.raises(SupernetError, match=r"Perturbation needs 15 epochs, .* got 14; pass --trainer.max_epochs 15"):
        term.start_epoch(0, 14)
    with pytest.raises(SupernetError, match="tune_epochs must be at least 1, got 0"):
        Perturbation(1, 0)


def test_order_and_state_survive_a_checkpoint() -> None:
    score = Planted(torch.rand(6, 5, generator=torch.Generator().manual_seed(1)))
    search, term = DARTS(), Perturbation(1, 1)
    bound(term, search, seed=3)
    assert sorted(term.order) == list(range(6))
    decide(search, term, score, range(3), 7)
    again, other = DARTS(), Perturbation(1, 1)
    bound(other, again, seed=4)
    assert other.order != term.order
    again.load_state_dict(search.state_dict())
    other.load_state_dict(term.state_dict())
    assert other.scalars() == {"edges_decided": 3.0}
    for one, its in ((search, term), (again, other)):
        decide(one, its, score, range(3, 7), 7)
    assert search.candidates.equal(again.candidates)


class Watched(SearchModule):
    """Counts ends of epochs, and stops where it is told to."""

    learned: list[tuple[int, bool]]
    stop_at: tuple[int, int] | None = None

    def training_step(self, batch: dict[str, tuple[Tensor, Tensor]], batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        self.learned.append((self.current_epoch, self.bilevel.learns))
        if self.stop_at == (self.current_epoch, batch_idx):
            raise KeyError


def run(folder: Path, stop_at: tuple[int, int] | None = None, minutes: float = 10) -> Watched:
    seed_everything(0)
    terms: list[SearchTerm] = [Perturbation(1, 1)]
    module = Watched(DARTS(), 2, 1, image_shape=(1, 8, 8), arch_lr=0.1, terms=terms, score_images=64)
    module.learned, module.stop_at = [], stop_at
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        max_epochs=7, accelerator="cpu", default_root_dir=folder, limit_train_batches=2, limit_val_batches=1,
        callbacks=[LastCheckpoint(minutes)], **quiet,  # type: ignore[arg-type]
    )  # fmt: skip
    kept = folder / "checkpoints" / "last.ckpt"
    data = SearchData(batch_size=64)
    trainer.fit(module, datamodule=data, ckpt_path=kept if kept.is_file() else None, weights_only=True)
    return module


def test_in_a_whole_search_each_edge_is_decided_once_also_if_it_is_resumed(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    assert whole.learned == [(0, True)] * 2 + [(epoch, False) for epoch in range(1, 7) for _ in range(2)]
    for at in ((1, 0), (3, 1)):  # what was saved is the end of an epoch, and the middle of one
        with pytest.raises(KeyError):
            run(tmp_path / "broken", at, minutes=0)
        assert (tmp_path / "broken" / "checkpoints" / "last.ckpt").is_file()
    resumed = run(tmp_path / "broken")
    kept = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "broken")
    ]
    assert differences(kept[0]["state_dict"], kept[1]["state_dict"]) == []
    assert whole.genotype == resumed.genotype
    assert whole.search.candidates.sum() == 6
    assert whole.genotype == CellSpace().genotype(whole.search.candidates.float().argmax(dim=1).tolist())
    assert isinstance(whole.genotype, Genotype)
