from __future__ import annotations

import copy
import inspect
import itertools
from pathlib import Path
from typing import Any

import networkx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import SGD

import supernet.matching
from supernet import strategies
from supernet.bilevel import Bilevel
from supernet.data import SearchData
from supernet.errors import SupernetError
from supernet.matching import best_partition, choose, gradients, minimum_cut, similarity
from supernet.mixed import MixedCell
from supernet.module import SearchModule
from supernet.network import Supernet
from supernet.replay import Recorder
from supernet.space import CellSpace
from supernet.split import Partition, Split, SplitSupernet
from supernet.strategies import GDAS, Batch, RandomSearch, SearchStrategy
from supernet.terms import OperationDropout, Perturbation, SearchTerm
from tests.test_module import make_trainer
from tests.test_resume import differences
from tests.textbook import textbook_supernet

SIZES = {"channels": 2, "num_cells": 1, "num_classes": 4, "image_channels": 1}
TWO = Partition(4, (0, 1, 1, 0, 1))


def batch(seed: int, size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (size,), generator=generator)


def make(split: Split, how: dict[str, Any] | None = None) -> tuple[SplitSupernet, Bilevel]:
    torch.manual_seed(0)
    network, search = SplitSupernet(split, CellSpace(), **SIZES).double(), RandomSearch()
    search.bind(network.space, 0)
    how = how or {"momentum": 0.9, "nesterov": True, "weight_decay": 0.03}
    recorder = Recorder(torch.device("cpu"))
    return network, Bilevel(network, search, SGD(network.parameters(), 0.1, **how), None, recorder, 5.0)


def test_each_part_goes_on_like_a_supernet_that_is_trained_alone() -> None:
    # A second formulation: before the split one plain supernet, afterwards two that know nothing of each other, each
    # stepped by its own optimizer on the paths of its part only.
    network, bilevel = make(Split(1))
    alone = Supernet(network.space, **SIZES).double()
    alone.load_state_dict({name: value for name, value in network.state_dict().items() if name in alone.state_dict()})
    optimizer = SGD(alone.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.03)
    nets, optimizers = [alone], [optimizer]
    generator = torch.Generator().manual_seed(1)
    for step in range(12):
        if step == 4:
            network.split(TWO, bilevel.descent.optimizer)
            twin, state = copy.deepcopy(alone), optimizer.state_dict()
            nets.append(twin)
            optimizers.append(SGD(twin.parameters(), 0.1))
            optimizers[1].load_state_dict(copy.deepcopy(state))
        choices = torch.randint(5, (6,), generator=generator)
        mixture = F.one_hot(choices, 5).double()
        part = TWO.groups[choices[TWO.edge]] if step >= 4 else 0
        images, labels = batch(step)
        bilevel.descent.step(images, labels, mixture[None])
        F.cross_entropy(nets[part](images, mixture), labels).backward()
        for parameter in nets[part].parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.nn.utils.clip_grad_norm_(nets[part].parameters(), 5.0)
        optimizers[part].step()
        optimizers[part].zero_grad()
    for ours, theirs in zip(network.parameters_apart(), nets, strict=True):
        for one, other in zip(ours, theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert not all(one.equal(other) for one, other in zip(*network.parameters_apart(), strict=True))


def test_the_parts_begin_as_copies_with_the_momentum_of_the_whole() -> None:
    network, bilevel = make(Split(1, edge=2))
    for step in range(3):
        bilevel.step(batch(step), batch(step))
    idle = [parameter.clone() for part in network.parameters_apart()[1:] for parameter in part]
    mixtures = [F.one_hot(torch.tensor([0, 1, op, 3, 4, 2]), 5).double() for op in range(5)]
    images, _ = batch(9)
    before = [network(images, mixture) for mixture in mixtures]
    plain = Supernet(network.space, **SIZES).double()
    plain.load_state_dict({name: value for name, value in network.state_dict().items() if name in plain.state_dict()})
    assert all(plain(images, mixture).equal(logits) for mixture, logits in zip(mixtures, before, strict=True))
    optimizer = bilevel.descent.optimizer
    partition = choose(Split(1, edge=2), network, *batch(0), 0)
    assert partition == Partition(2, (0, 1, 2, 3, 4))
    network.split(partition, optimizer)
    assert all(network(images, mixture).equal(logits) for mixture, logits in zip(mixtures, before, strict=True))
    own, *others = network.parameters_apart()
    assert not all(one.equal(other) for one, other in zip(idle, itertools.chain(*others), strict=True))
    for part in others:
        for parameter, parent in zip(part, own, strict=True):
            momentum, parents = (optimizer.state[p]["momentum_buffer"] for p in (parameter, parent))
            assert momentum.equal(parents)
            assert momentum.data_ptr() != parents.data_ptr()


@pytest.mark.parametrize("partition", [TWO, None])
def test_cells_are_answered_and_inherited_by_their_part(partition: Partition | None) -> None:
    network, bilevel = make(Split(1))
    if partition is not None:
        network.split(partition, bilevel.descent.optimizer)
    for step in range(8):
        bilevel.step(batch(step), batch(step))
    images, _ = batch(20)
    for op in range(5):
        cell = network.space.genotype([1, 3, 2, 4, op, 3])
        part = network.parts()[0 if partition is None else partition.groups[op]]
        logits = Supernet.forward(part, images, network.one_hot(cell).double())
        assert network(images, network.one_hot(cell).double()).equal(logits)
        torch.testing.assert_close(network.inherit(cell).train()(images), logits, rtol=1e-9, atol=1e-10)


def moving(network: SplitSupernet, optimizer: SGD) -> list[list[Tensor]]:
    """Parameters and momentum of each part."""
    return [
        [tensor for p in part for tensor in (p.detach(), optimizer.state[p]["momentum_buffer"])]
        for part in network.parameters_apart()
    ]


def test_a_step_of_one_part_leaves_the_others_and_their_momentum_in_every_bit() -> None:
    network, bilevel = make(Split(1))
    for step in range(3):
        bilevel.step(batch(step), batch(step))
    network.split(TWO, bilevel.descent.optimizer)
    optimizer = bilevel.descent.optimizer
    for op in range(5):
        before = copy.deepcopy(
            [[(p, optimizer.state[p]["momentum_buffer"]) for p in q] for q in network.parameters_apart()]
        )
        bilevel.descent.step(*batch(op), F.one_hot(torch.tensor([[1, 2, 3, 4, op, 3]]), 5).double())
        for number, (was, part) in enumerate(zip(before, network.parameters_apart(), strict=True)):
            same = [
                p.equal(q) and optimizer.state[p]["momentum_buffer"].equal(m)
                for p, (q, m) in zip(part, was, strict=True)
            ]
            assert not any(same) if number == TWO.groups[op] else all(same)


def tables(num_ops: int) -> st.SearchStrategy[Tensor]:
    values = st.lists(st.floats(-1, 1, width=32), min_size=num_ops**2, max_size=num_ops**2)
    return values.map(lambda row: torch.tensor(row, dtype=torch.float64).view(num_ops, num_ops)).map(
        lambda a: (a + a.T) / 2
    )


@settings(deadline=None)
@given(table=st.integers(2, 6).flatmap(tables))
def test_no_two_groups_are_cut_at_less(table: Tensor) -> None:
    # By a second formulation: the cut of signs s is (sum of S - s' S s) / 4, S without its diagonal.
    found, groups = minimum_cut(table)
    table = table - table.diag().diag()
    signs = torch.tensor(
        [[*row] for row in itertools.product((-1.0, 1.0), repeat=len(table)) if len({*row}) > 1]
    ).double()
    cuts = (table.sum() - torch.einsum("ni,ij,nj->n", signs, table, signs)) / 4
    assert found == pytest.approx(float(cuts.min()), abs=1e-9)
    s = torch.tensor(groups).double() * 2 - 1
    assert float(table.sum() - s @ table @ s) / 4 == pytest.approx(found, abs=1e-9)
    assert set(groups) == {0, 1}
    assert groups[0] == 0


def test_among_similarities_above_zero_it_is_the_cut_of_stoer_and_wagner() -> None:
    for seed in range(10):
        table = torch.rand(5, 5, generator=torch.Generator().manual_seed(seed)).double()
        table = table + table.T
        graph = networkx.from_numpy_array(table.fill_diagonal_(0).numpy())
        value, (side, _) = networkx.stoer_wagner(graph)
        found, groups = minimum_cut(table)
        assert found == pytest.approx(value)
        assert {op for op in range(5) if groups[op] == groups[side[0]]} == set(side)


def test_a_planted_pair_of_groups_is_found_and_its_edge() -> None:
    generator, groups = torch.Generator().manual_seed(0), torch.tensor([0, 1, 1, 0, 1])
    directions = torch.randn(2, 400, generator=generator)
    similarities = []
    for edge in range(6):
        one = directions[0] if edge == 3 else directions.sum(dim=0)
        other = -directions[0] if edge == 3 else directions.sum(dim=0)
        rows = torch.where(groups[:, None] == 0, one, other) + 0.3 * torch.randn(5, 400, generator=generator)
        similarities.append(similarity(rows))
    assert best_partition(similarities) == Partition(3, (0, 1, 1, 0, 1))


@given(st.integers(0, 100))
def test_similarity_is_the_cosine_of_each_pair_and_knows_no_length(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4, 7, generator=generator, dtype=torch.float64)
    expected = torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for a in rows]) for b in rows])
    torch.testing.assert_close(similarity(rows * torch.tensor([[1.0], [3], [0.1], [7]])), expected)
    rows[2] = 0
    assert similarity(rows)[2].equal(torch.zeros(4, dtype=torch.float64))


def test_gradients_of_what_is_shared_equal_those_of_the_textbook_supernet() -> None:
    network, _ = make(Split(1))
    (images, labels), contexts = batch(0), [[1, 3, 2, 4, 1, 3], [3, 3, 0, 1, 2, 4]]
    kinds = {"nor_conv_1x1", "nor_conv_3x3"}
    for edge in (0, 4):
        target, source = network.space.edges[edge]
        found = gradients(network, images, labels, edge, contexts)
        plain = Supernet(network.space, **SIZES).double()
        plain.load_state_dict({n: v for n, v in network.state_dict().items() if n in plain.state_dict()})
        for op in range(5):
            plain.zero_grad()
            for context in contexts:
                cell = [op if number == edge else choice for number, choice in enumerate(context)]
                logits = textbook_supernet(plain, images, F.one_hot(torch.tensor(cell), 5).double())
                (F.cross_entropy(logits, labels) / 2).backward()
            for block in plain.blocks:
                for kind in kinds if isinstance(block, MixedCell) else ():
                    kernel = block.get_parameter(f"convolutions.{source}.{kind}.weight")
                    if kernel.grad is not None:
                        kernel.grad.view(-1, kernel.shape[1], *kernel.shape[1:])[target - source - 1] = 0
            flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in plain.parameters()]
            expected = torch.cat([slope.reshape(-1) for slope in flat])
            torch.testing.assert_close(found[op], expected, rtol=1e-8, atol=1e-10)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_matching_gives_two_groups_of_one_edge_and_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = make(Split(1))
    monkeypatch.setattr(supernet.matching, "NUM_CONTEXTS", 2)
    first, again, other = (choose(Split(1), network, *batch(0), seed) for seed in (0, 0, 7))
    assert first == again
    assert {*first.groups} == {*other.groups} == {0, 1}


class Interrupt(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("power cut")


def search(split: Split) -> tuple[SearchModule, SearchData]:
    module = SearchModule(RandomSearch(num_samples=3), 2, 1, image_shape=(1, 8, 8), split=split, score_images=64)
    return module, SearchData(batch_size=64)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize(("edge", "broken_in"), [(None, 1), (3, 2)], ids=["before the split", "after it"])
def test_a_search_that_is_split_goes_on_bit_by_bit(
    tmp_path: Path,
    edge: int | None,
    broken_in: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(supernet.matching, "NUM_CONTEXTS", 1)
    options: dict[str, Any] = {"max_epochs": 3, "limit_train_batches": 3, "limit_val_batches": 1}
    seed_everything(0)
    whole, data = search(Split(1, edge))
    make_trainer(tmp_path, **options).fit(whole, datamodule=data)
    seed_everything(0)
    module, data = search(Split(1, edge))
    keep = ModelCheckpoint(tmp_path, "last", enable_version_counter=False, save_on_train_epoch_end=True)
    callbacks: list[Callback] = [Interrupt(broken_in), keep]
    with pytest.raises(RuntimeError, match="power cut"):
        make_trainer(tmp_path, enable_checkpointing=True, callbacks=callbacks, **options).fit(module, datamodule=data)
    seed_everything(5)
    resumed, data = search(Split(1, edge))
    trainer = make_trainer(tmp_path, enable_checkpointing=True, callbacks=[keep], **options)
    trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert isinstance(whole.supernet, SplitSupernet)
    (told,) = {line for line in capsys.readouterr().out.splitlines() if "is split" in line}  # the same in all runs
    found = whole.supernet.partition
    assert found is not None
    ops = [[op for op, part in zip(CellSpace().ops, found.groups, strict=True) if part == group]
           for group in sorted({*found.groups})]  # fmt: skip
    assert told.startswith(f"the supernet is split at edge {found.edge} (node ")
    assert told.endswith("): " + " | ".join(", ".join(group) for group in ops))
    assert resumed.record()["split"] == {"edge": found.edge, "groups": ops}
    assert isinstance(resumed.supernet, SplitSupernet)
    assert whole.supernet.partition == resumed.supernet.partition is not None
    for ours, theirs in zip(resumed.supernet.parameters(), whole.supernet.parameters(), strict=True):
        assert ours.equal(theirs)
    assert resumed.genotype == whole.genotype is not None
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    again, _ = search(Split(1, edge))
    again.load_state_dict(checkpoint["state_dict"])
    assert again.supernet.partition == whole.supernet.partition


def test_mixtures_that_are_no_single_path_are_refused() -> None:
    network, _ = make(Split(1))
    with pytest.raises(SupernetError, match="needs single paths, one operation on each edge"):
        network(batch(0)[0], torch.full((6, 5), 0.2))


SINGLE = {"AlphaNet", "ENAS", "FairNAS", "GDAS", "RandomSearch", "SPOS"}
KINDS = [kind for kind in vars(strategies).values() if isinstance(kind, type) and issubclass(kind, SearchStrategy)]
KINDS = [kind for kind in KINDS if not inspect.isabstract(kind)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_strategy_that_needs_more_than_single_paths_is_refused_at_once(kind: type[SearchStrategy]) -> None:
    if kind.__name__ in SINGLE:
        check_split_goes_on(kind())
        return
    with pytest.raises(SupernetError, match=f"{kind.__name__} .* choose a strategy that .*, such as RandomSearch"):
        SearchModule(kind(), 2, 1, image_shape=(1, 8, 8), split=Split(1))


def test_rewards_of_single_paths_are_enough() -> None:
    check_split_goes_on(strategies.JointPolicy("reinforce"))


def check_split_goes_on(strategy: SearchStrategy) -> None:
    """It is accepted, its draws are not disturbed by that, and it takes its steps after the split."""
    torch.manual_seed(0)
    twin = copy.deepcopy(strategy)
    module = SearchModule(strategy, 2, 1, image_shape=(1, 8, 8), num_classes=4, split=Split(1))
    twin.bind(module.supernet.space, module.seed)
    twin.depth = strategy.depth
    assert differences(twin.state_dict(), strategy.state_dict()) == []
    network = module.supernet
    assert isinstance(network, SplitSupernet)
    optimizer = SGD(network.parameters(), 0.1)
    arch = list(strategy.parameters())
    arch_optimizer = strategy.make_optimizer(0.1, (0.5, 0.9), 0.0) if arch else None
    bilevel = Bilevel(network, strategy, optimizer, arch_optimizer, Recorder(torch.device("cpu")), 5.0)
    network.split(TWO, optimizer)
    images, labels = batch(0)
    for _ in range(3):
        bilevel.arch_step((images.float(), labels), (images.float(), labels))
        bilevel.step((images.float(), labels), (images.float(), labels))


@pytest.mark.parametrize(
    ("terms", "sentence"),
    [
        ([OperationDropout(0.1)], "OperationDropout leaves some edges without any"),
        ([Perturbation(1, 1)], "Perturbation looks at mixtures"),
    ],
)
def test_terms_that_change_single_paths_are_refused(terms: list[SearchTerm], sentence: str) -> None:
    with pytest.raises(SupernetError, match=sentence):
        SearchModule(GDAS(), 2, 1, image_shape=(1, 8, 8), terms=terms, split=Split(1))


def test_a_gradient_reaches_a_strategy_that_draws_single_paths() -> None:
    network, bilevel = make(Split(1))
    network.split(TWO, bilevel.descent.optimizer)
    strategy = GDAS()
    strategy.bind(network.space, 0)
    images, labels = batch(0)
    F.cross_entropy(network(images, strategy().double()), labels).backward()
    assert strategy.logits.grad is not None
    assert strategy.logits.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("split", "space", "message"),
    [
        (Split(0), CellSpace(), "epoch of a split must be at least 1, .* got 0"),
        (Split(1, 6), CellSpace(), "from 0 to 5, got 6"),
        (Split(1, -1), CellSpace(), "from 0 to 5, got -1"),
        (Split(1), CellSpace(3, ("skip_connect",)), "two operations to tell apart"),
    ],
)
def test_a_split_that_cannot_be_is_refused(split: Split, space: CellSpace, message: str) -> None:
    with pytest.raises(SupernetError, match=message):
        SearchModule(RandomSearch(), 2, 1, space, split=split)


def test_a_split_after_the_last_epoch_is_refused(tmp_path: Path) -> None:
    module, data = search(Split(2))
    with pytest.raises(SupernetError, match="split in epoch 2, which a search of 2 epochs does not reach"):
        make_trainer(tmp_path, max_epochs=2).fit(module, datamodule=data)


@pytest.mark.parametrize(
    "state", [{"edge": 6, "groups": [0, 1, 0, 1, 1]}, {"edge": 1, "groups": [0, 1]}, {"edge": 1, "groups": [2] * 5}]
)
def test_a_split_of_another_supernet_is_refused(state: dict[str, Any]) -> None:
    network, _ = make(Split(1))
    with pytest.raises(SupernetError, match="an edge and its groups of operations, got"):
        network.set_extra_state(state)
