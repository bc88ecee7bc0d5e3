"""The measurements count what happens, compare ways that train alike, and write what they found."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam

from benchmarks import report, retrain_speed, retrain_ways, scaling, search_speed, ways
from benchmarks.measure import Sample, StepCount, in_turns, loop
from benchmarks.textbook import textbook_of, textbook_optimizers, textbook_step
from benchmarks.ways import MEAN, STD, STRATEGIES, Setting
from supernet.bilevel import Bilevel
from supernet.descent import Descent
from supernet.genotype import Genotype
from supernet.network import Network, Supernet
from supernet.replay import Recorder
from supernet.strategies import DARTS, GDAS, Batch, RandomSearch, SearchStrategy
from supernet.tally import Tally

HOST = torch.device("cpu")
MIB = 2**18  # float32 values in a MiB


def counted(step: Callable[[], object], *alive: Tensor) -> tuple[int, int, int]:
    """Operations, most bytes at once, and bytes in the end."""
    with StepCount(alive) as count:
        kept = step()
    found = count.operations, count.peak, count.bytes
    del kept
    return found


def test_operations_that_compute_are_counted_and_views_are_not() -> None:
    x = torch.zeros(MIB)

    def step() -> Tensor:
        y = x + 1  # one operation
        z = y.view(2, -1).t()[1:]  # three views
        z.mul_(2)  # one, in place
        return torch.empty(MIB)  # memory, but no operation

    assert counted(step, x) == (2, 3 * 2**20, 2 * 2**20)


def test_memory_is_given_back_when_the_last_tensor_that_uses_it_is_gone() -> None:
    def step() -> Tensor:
        first = torch.ones(MIB)
        view = first[:1]
        del first  # the view keeps all of it
        second = torch.ones(2 * MIB)
        del view  # 3 MiB until here
        third = second * 2  # 4 MiB
        del second
        return third + torch.ones(2 * MIB)  # 2, then 4, then 6 MiB

    assert counted(step) == (5, 6 * 2**20, 2 * 2**20)


def test_what_is_alive_before_a_step_counts_once_and_until_it_is_gone() -> None:
    kept = [torch.zeros(MIB), torch.zeros(MIB)]

    def step() -> Tensor:
        kept.pop()
        return kept[0] + 1

    with StepCount([*kept, kept[0][:1]]) as count:
        assert count.bytes == count.peak == 2 * 2**20
        result = step()
        assert count.bytes == 2 * 2**20
    assert count.peak == 2 * 2**20
    del result
    assert count.bytes == 2**20


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_backward_pass_is_counted_with_what_it_keeps(device: str) -> None:
    x = torch.zeros(MIB, device=device, requires_grad=True)

    def step() -> Tensor:
        y = x.exp()  # kept for its own gradient
        loss = y.exp().sum()  # so is this one
        del y
        loss.backward()
        assert x.grad is not None
        return x.grad

    operations, peak, left = counted(step, x)
    # Forward exp, exp, sum; backward ones, (expand is a view) times exp, times exp.
    assert operations == 6
    # x, two exponentials and the gradient of one of them; then x, one exponential and two gradients. Two scalars.
    assert peak == 4 * 2**20 + 8
    assert left == 2 * 2**20  # x and its gradient: what is smaller is gone


# Make a tensor of so many KiB; view, change in place or let go one of those there are.
ACTIONS = st.tuples(st.sampled_from(["make", "view", "change", "free"]), st.integers(0, 99))


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=40))
def test_any_order_of_operations_agrees_with_a_plain_ledger(actions: list[tuple[str, int]]) -> None:
    tensors: list[tuple[int, Tensor]] = []  # with the number of their memory
    sizes: dict[int, int] = {}
    operations = peak = 0
    with StepCount() as count:
        for action, number in actions:
            if action == "make":
                key = len(sizes)
                sizes[key] = 1024 * (number + 1)
                tensors.append((key, torch.ones(256 * (number + 1))))
                operations += 1
            elif tensors:
                key, tensor = tensors[number % len(tensors)]
                if action == "view":
                    tensors.append((key, tensor[: 1 + number]))
                elif action == "change":
                    tensor.add_(1)
                    operations += 1
                else:
                    del tensors[number % len(tensors)]
                del tensor
            now = sum(sizes[key] for key in {key for key, _ in tensors})
            peak = max(peak, now)
            assert (count.operations, count.bytes, count.peak) == (operations, now, peak)


def test_ways_take_turns_and_their_medians_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[tuple[str, int]] = []
    times = {"slow": iter([9.0, 5.0, 7.0]), "fast": iter([1.0, 100.0, 2.0])}

    def way(name: str) -> Callable[[int], Sample]:
        def run(steps: int) -> Sample:
            order.append((name, steps))
            wall = next(times[name])
            return Sample(wall, -wall, wall / 10)

        return run

    found = in_turns({name: way(name) for name in times}, 4, 3, "test")
    assert order == 3 * [("slow", 4), ("fast", 4)]
    assert found == {"slow": Sample(7.0, -7.0, 0.7), "fast": Sample(2.0, -2.0, 0.2)}
    assert capsys.readouterr().err.count("\n") == 6


def test_a_loop_warms_up_and_begins_its_loader_anew() -> None:
    begun: list[int] = []
    seen: list[str] = []

    class Loader:
        def __iter__(self) -> Any:
            begun.append(len(seen))
            return iter("abc")

    run = loop(Loader(), seen.append, HOST, warm_up=2)
    assert "".join(seen) == "ab"
    sample = run(5)
    assert "".join(seen) == "abcabca"
    assert begun == [0, 3, 6]
    assert 0 <= sample.data <= sample.wall
    run(1)
    assert "".join(seen) == "abcabcab"  # goes on where it stopped


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(6, 2, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(4, (6,), generator=generator),
        )
        for _ in range(count)
    ]


def test_the_textbook_and_ours_search_alike() -> None:
    torch.manual_seed(0)
    supernet = Supernet(channels=3, num_cells=1, num_classes=4, image_channels=2).double()
    ours, theirs = DARTS(), DARTS()
    for search in (ours, theirs):
        search.bind(supernet.space, 3)
        search.double()
    textbook = textbook_of(supernet)
    optimizers = textbook_optimizers(textbook, theirs)
    sgd = SGD(supernet.parameters(), 0.025, 0.9, weight_decay=5e-4, nesterov=True)
    adam = Adam(ours.parameters(), 3e-4, (0.5, 0.999), weight_decay=1e-3)
    bilevel = Bilevel(supernet, ours, sgd, adam, Recorder(HOST), grad_clip=5.0)
    bilevel.tally, bilevel.descent.tally = Tally(HOST, torch.float64), Tally(HOST, torch.float64)
    seen: list[float] = []
    data = batches(8)
    for step in range(20):
        train, val = data[step % 5], data[5 + step % 3]
        textbook_step(textbook, theirs, *optimizers, train, val, read=lambda loss: seen.append(loss.item()))
        bilevel.step(train, val)
        assert bilevel.tally.read().loss == pytest.approx(sum(seen[::2]), abs=1e-9)
        assert bilevel.descent.tally.read().loss == pytest.approx(sum(seen[1::2]), abs=1e-9)
    assert len(seen) == 40
    assert seen[-1] < 0.9 * seen[1]  # it has learned: the steps are steps
    torch.testing.assert_close(theirs.logits, ours.logits, rtol=0, atol=1e-9)
    images = data[0][0]
    torch.testing.assert_close(textbook(images, theirs()), supernet(images, ours()), rtol=0, atol=1e-9)


CELLS = [
    Genotype.from_index(6111),
    Genotype.parse("|avg_pool_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"),
    Genotype.parse("|max_pool_3x3~0|+|none~0|nor_conv_5x5~1|"),
]


@pytest.mark.parametrize("genotype", CELLS, ids=str)
def test_the_textbook_and_ours_train_a_cell_alike(genotype: Genotype) -> None:
    torch.manual_seed(0)
    network = Network(genotype, 3, 1, 4, 2).double()
    textbook = retrain_ways.TextbookNetwork(genotype, 3, 1, 4, 2).double()
    textbook.load_state_dict(network.state_dict())
    sgd = SGD(network.parameters(), 0.1, 0.9, weight_decay=5e-4, nesterov=True)
    descent, optimizer = Descent(network, sgd, Recorder(HOST)), retrain_ways.textbook_sgd(textbook)
    descent.tally = Tally(HOST, torch.float64)
    seen: list[float] = []
    data = batches(5)
    for step in range(20):
        batch = data[step % 5]
        retrain_ways.textbook_step(textbook, optimizer, batch, read=lambda loss: seen.append(loss.item()))
        descent.step(*batch)
        assert descent.tally.read().loss == pytest.approx(sum(seen), abs=1e-9)
    assert seen[-1] != seen[0]
    images = data[0][0]
    for training in (True, False):  # running statistics, too
        textbook.train(training)
        network.train(training)
        torch.testing.assert_close(textbook(images), network(images), rtol=0, atol=1e-9)


def test_the_textbook_network_has_the_default_layout_everywhere() -> None:
    textbook = retrain_ways.TextbookNetwork(CELLS[1], 4, 1)
    assert all(parameter.is_contiguous() for parameter in textbook.parameters())
    assert any(isinstance(module, nn.AvgPool2d) and module.padding == 1 for module in textbook.modules())
    seen: list[bool] = []
    for module in textbook.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: seen.append(output.is_contiguous()))
    textbook(torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    assert seen
    assert all(seen)


def test_the_textbook_loader_gives_every_image_once_augmented_and_normalised() -> None:
    images = Setting(num_images=6).images()
    images = images._replace(labels=torch.arange(12))
    loader = retrain_ways.textbook_loader(images, 5, 0, HOST)
    found = list(loader)
    assert [len(labels) for _, labels in found] == [5, 5, 2]
    assert sorted(torch.cat([labels for _, labels in found]).tolist()) == list(range(12))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    for batch, labels in found:
        for image, label in zip(batch * std + mean, labels, strict=True):
            padded = nn.functional.pad(images.images[label].float(), (4,) * 4)
            windows = padded.unfold(1, 32, 1).unfold(2, 32, 1).flatten(1, 2).transpose(0, 1)
            crops = torch.cat([windows, windows.flip(3)])
            assert float((crops - image).abs().amax(dim=(1, 2, 3)).min()) < 1e-3


TINY = ["--device", "cpu", "--batch", "4", "--channels", "2", "--num_cells", "1", "--rounds", "1"]


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for an epoch of a few steps."""
    for module in (search_speed, retrain_speed):
        monkeypatch.setattr(module, "Setting", functools.partial(Setting, num_images=32))


def run(module: Any, tmp_path: Path, *more: str) -> tuple[dict[str, Any], str]:
    """What a command writes into its two files."""
    figures, table = tmp_path / "figures.json", tmp_path / "table.md"
    module.main([*TINY, *more, "--json", str(figures), "--markdown", str(table)])
    return json.loads(figures.read_text(encoding="utf-8")), table.read_text(encoding="utf-8")


def lines_of(table: str, *names: str) -> list[str]:
    """The lines of a table that begin with these cells."""
    start = f"| {' | '.join(names)} |"
    return [line for line in table.splitlines() if line.startswith(start)]


def check_record(record: dict[str, Any], module: str) -> None:
    assert record["command"].startswith(f"python -m benchmarks.{module} --device cpu --batch 4 ")
    assert record["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert {"python", "pytorch_lightning", "hardware"} <= record["versions"].keys()
    assert record["setting"]["batch"] == 4
    assert record["setting"]["device"] == "cpu"
    assert (record["steps"], record["rounds"]) == (1, 1)


def check_rows(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["wall_ms"] > 0
        assert row["cpu_ms"] > 0
        assert 0 <= row["data_share"] < 1
        assert row["launches"] > 100
        assert row["peak_mb"] > 0


@pytest.mark.usefixtures("few_images")
def test_search_speed_measures_all_ways_by_all_strategies(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.chdir(tmp_path_factory.mktemp("here")):
        record, table = run(search_speed, tmp_path, "--workers", "0")
        assert not [*Path().iterdir()]  # whoever measures finds nothing in the way afterwards
    check_record(record, "search_speed")
    check_rows(record["rows"])
    assert list(record["ratio"]) == list(STRATEGIES)
    for name in STRATEGIES:
        times = {row["way"]: row["cpu_ms"] for row in record["rows"] if row["strategy"] == name}
        assert record["ratio"][name] == pytest.approx(times["textbook"] / times["ours"])
        for way in ("textbook", "bare loop", "ours"):
            assert len(lines_of(table, name, way)) == 1
    launches = {(row["strategy"], row["way"]): row["launches"] for row in record["rows"]}
    assert launches["DARTS", "textbook"] > launches["DARTS", "ours"]
    assert capsys.readouterr().out == table


@pytest.mark.parametrize("parent", [GDAS, RandomSearch])
def test_every_way_draws_the_same_paths_in_a_round(
    parent: type[SearchStrategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[int]] = []

    class Spy(parent):  # type: ignore[valid-type, misc]
        def forward(self) -> Tensor:
            mixture: Tensor = super().forward()
            drawn.append(mixture.argmax(dim=1).tolist())
            return mixture

    options = {"num_samples": 1} if parent is RandomSearch else {}
    monkeypatch.setitem(ways.STRATEGIES, "spy", lambda: Spy(**options))
    setting = Setting(channels=2, num_cells=1, batch=4, num_images=32, num_workers=0, warm_up=2)
    per_round = 3 * (2 if parent is GDAS else 1)
    rounds = {}
    for name, way in ways.WAYS.items():
        run, found = way("spy", setting), []
        for _ in range(2):
            drawn.clear()
            run(3)
            # Under Lightning a run has warmed up before, and looks at probabilities and takes one more step afterwards.
            first = (len(drawn) - per_round) // 2 if name != "ours" else 2 * per_round // 3
            found.append(drawn[first : first + per_round])
        rounds[name] = found
    assert rounds["textbook"] == rounds["bare loop"] == rounds["ours"]
    assert rounds["ours"][0] != rounds["ours"][1]


@pytest.mark.usefixtures("few_images")
def test_retrain_speed_measures_all_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record, table = run(retrain_speed, tmp_path, "--workers", "0", "--genotype", "0")
    check_record(record, "retrain_speed")
    check_rows(record["rows"])
    assert record["genotype"] == str(Genotype.from_index(0))
    times = {row["way"]: row["cpu_ms"] for row in record["rows"]}
    assert record["ratio"] == {"retrain": pytest.approx(times["textbook"] / times["ours"])}
    for way in ("textbook", "bare loop", "ours"):
        assert len(lines_of(table, way)) == 1
    assert capsys.readouterr().out == table


def test_scaling_changes_one_size_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "FACTORS", {"batch": (4, 8), "num_cells": (1, 2), "num_ops": (2, 7)})
    record, table = run(scaling, tmp_path, "--factors", "batch", "num_cells", "num_ops")
    check_record(record, "scaling")
    check_rows(record["rows"])
    assert [(row["factor"], row["size"]) for row in record["rows"]] == [
        ("batch", 4), ("batch", 8), ("num_cells", 1), ("num_cells", 2), ("num_ops", 2), ("num_ops", 7),
    ]  # fmt: skip
    assert record["exponents"].keys() == {"batch", "num_cells", "num_ops"}
    launches = {(row["factor"], row["size"]): row["launches"] for row in record["rows"]}
    assert launches["batch", 4] == launches["batch", 8] == launches["num_cells", 1]
    assert launches["num_cells", 2] > launches["num_cells", 1]
    assert launches["num_ops", 7] > launches["num_ops", 2]
    assert record["exponents"]["batch"]["launches"] == pytest.approx(0, abs=1e-9)
    assert len(lines_of(table, "exponent")) == 3


def test_exponents_are_those_of_power_laws() -> None:
    sizes = [2, 3, 5, 11]
    for power in (-0.5, 0.0, 1.0, 2.0):
        assert scaling.exponent(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)


def test_spaces_of_all_sizes_have_known_operations_and_five_are_those_of_the_benchmark() -> None:
    sizes = scaling.FACTORS["num_ops"]
    spaces = [set(scaling.setting_at(Setting(), "num_ops", size).ops) for size in sizes]
    assert [len(ops) for ops in spaces] == list(sizes)
    assert all(small < large for small, large in itertools.pairwise(spaces))
    assert scaling.setting_at(Setting(), "num_ops", 5) == Setting()
    assert replace(Setting(), ops=scaling.OPS).supernet().space.num_ops == 7


MISTAKES = [
    (["--rounds", "0"], "--rounds must be at least 1, got 0"),
    (["--steps", "0"], "--steps must be at least 1, got 0"),
    (["--batch", "1"], "--batch must be at least 2, got 1"),
    (["--json", "nowhere/figures.json"], "cannot write nowhere/figures.json"),
    (["--batc", "64"], "unrecognized arguments: --batc 64"),
    (["--precision", "16"], "argument --precision: invalid choice: '16'"),
]
OWN_MISTAKES = [
    (retrain_speed, ["--genotype", "99999"], "an official NAS-Bench-201 index is 0 to 15624, got 99999"),
    (retrain_speed, ["--genotype", "|nor_conv~0|"], "unknown operation 'nor_conv'"),
    (retrain_speed, ["--genotype", "missing.json"], "missing.json"),
    (retrain_speed, ["--workers", "-1"], "--workers must be at least 0, got -1"),
    (retrain_speed, ["--steps", "400"], "--steps must be at most 193"),
    (retrain_speed, ["--batch", "60000"], "--batch must be at most 16666"),
    (scaling, ["--strategy", "SPOS"], "argument --strategy: invalid choice: 'SPOS'"),
]


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [*((module, *mistake) for module in (search_speed, retrain_speed, scaling) for mistake in MISTAKES), *OWN_MISTAKES],
)
def test_a_mistake_is_one_sentence_and_status_2(
    module: Any, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        module.main(["--device", "cpu", *arguments])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err
    assert not printed.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("module", [search_speed, retrain_speed, scaling])
def test_a_device_that_is_missing_is_a_mistake(module: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        module.main(["--device", "cuda"])
    assert stopped.value.code == 2
    assert "there is no CUDA device here; pass --device cpu" in capsys.readouterr().err.splitlines()[-1]


def test_a_ratio_needs_both_ways() -> None:
    rows = [{"way": "textbook", "cpu_ms": 6.0, "wall_ms": 8.0}, {"way": "ours", "cpu_ms": 2.0, "wall_ms": 4.0}]
    assert report.ratio(rows, HOST) == 3.0
    assert report.ratio(rows, torch.device("cuda")) == 2.0
    assert report.ratio(rows[:1], HOST) is None
    assert report.ratio(rows[1:], HOST) is None
