from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from supernet.data import ImageData, ImageSet, RetrainData, SearchData, describe, halves
from supernet.data.batches import Batches, IndexBatches, Share
from supernet.errors import SupernetError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

Batch = tuple[Tensor, Tensor]


# Orders


def batches(order: IndexBatches, epoch: int = 0) -> list[list[int]]:
    order.set_epoch(epoch)
    return [batch.tolist() for batch in order]


def flat(order: IndexBatches, epoch: int = 0) -> list[int]:
    return [position for batch in batches(order, epoch) for position in batch]


sizes = {"num_images": st.integers(1, 300), "batch_size": st.integers(1, 64)}


@settings(deadline=None)
@given(**sizes, seed=st.integers(0, 2**32), epoch=st.integers(0, 1_000))
def test_a_shuffled_epoch_is_full_batches_without_repetition(
    num_images: int, batch_size: int, seed: int, epoch: int
) -> None:
    order = IndexBatches(num_images, batch_size, seed)
    found = batches(order, epoch)
    assert len(found) == len(order) == num_images // batch_size
    assert all(len(batch) == batch_size for batch in found)
    positions = [position for batch in found for position in batch]
    assert len(set(positions)) == len(positions)
    assert set(positions) <= set(range(num_images))


@settings(deadline=None)
@given(**sizes)
def test_an_ordered_epoch_is_every_image_once_in_batches_of_nearly_equal_size(num_images: int, batch_size: int) -> None:
    order = IndexBatches(num_images, batch_size)
    found = batches(order)
    assert [position for batch in found for position in batch] == list(range(num_images))
    lengths = [len(batch) for batch in found]
    assert max(lengths) <= batch_size
    assert max(lengths) - min(lengths) <= 1
    # No fewer batches would do.
    assert len(found) == len(order) == (num_images + batch_size - 1) // batch_size


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), epoch=st.integers(0, 1_000), other=st.integers(0, 2**32))
def test_the_order_depends_on_seed_and_epoch_alone(seed: int, epoch: int, other: int) -> None:
    first = flat(IndexBatches(100, 10, seed), epoch)
    torch.manual_seed(other)
    again = IndexBatches(100, 10, seed)
    for earlier in range(3):
        flat(again, earlier)
    assert flat(again, epoch) == first
    # Two shuffles of 100 images agree once in 100! times.
    assert flat(again, epoch + 1) != first
    assert flat(IndexBatches(100, 10, seed + 1), epoch) != first


def test_an_order_without_a_seed_is_the_same_in_every_epoch() -> None:
    order = IndexBatches(10, 4)
    assert batches(order, 0) == batches(order, 1) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_the_images_left_out_change_from_epoch_to_epoch() -> None:
    order = IndexBatches(10, 8, 0)
    left_out = {frozenset(range(10)) - frozenset(flat(order, epoch)) for epoch in range(20)}
    assert len(left_out) > 5


def test_shuffles_are_fair() -> None:
    order = IndexBatches(6, 3, 0)
    first = np.bincount([flat(order, epoch)[0] for epoch in range(1_200)], minlength=6)
    # Binomial with mean 200 and deviation 13: five deviations to each side.
    assert first.min() > 135
    assert first.max() < 265


# Under Lightning


class Recorder(LightningModule):
    """Keeps what the Trainer hands it."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = nn.Parameter(torch.zeros(()))
        self.train_batches: list[list[Any]] = []
        self.val_batches: list[Batch] = []
        self.test_batches: list[Batch] = []
        self.num_workers = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_epoch_start(self) -> None:
        self.train_batches.append([])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.train_batches[-1].append(batch)
        self.num_workers = max(self.num_workers, len(multiprocessing.active_children()))
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        optimizer.step()  # Lightning counts steps, and resumes by the count

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.test_batches.append(batch)


class ValidatingRecorder(Recorder):
    """Keeps validation batches too; Lightning warns of a validation_step without data."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_batches.append(batch)


def trainer(epochs: int, **options: Any) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", devices=1, max_epochs=epochs, **(quiet | {"num_sanity_val_steps": 0} | options))


def seeded(kind: type[ImageData], seed: int = 0, **options: Any) -> ImageData:
    torch.manual_seed(seed)
    return kind(**options)


def recorder_for(data: ImageData) -> Recorder:
    return ValidatingRecorder() if isinstance(data, SearchData) else Recorder()


def fit(data: ImageData, epochs: int = 1, **options: Any) -> Recorder:
    recorder = recorder_for(data)
    trainer(epochs, **options).fit(recorder, datamodule=data)
    return recorder


def digit_halves() -> tuple[ImageSet, ImageSet, ImageSet]:
    train, _ = describe("digits", Path()).load(Path(), False)
    network, architecture = halves(len(train.labels))
    return train, train.subset(network), train.subset(architecture)


def standardise(images: Tensor, statistics_of: Tensor) -> NDArray[np.float64]:
    pixels = statistics_of.numpy().astype(np.float64)
    mean, std = (f(pixels, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return (images.numpy().astype(np.float64) - mean) / std


def pixels_of(images: Tensor, statistics_of: Tensor) -> NDArray[np.uint8]:
    pixels = statistics_of.numpy().astype(np.float64)
    exact = images.numpy().astype(np.float64) * pixels.std() + pixels.mean()
    # Values are whole numbers up to 240, and the deviation of a sample differs by 1e-5 from that of a population.
    assert np.abs(exact - exact.round()).max() < 0.01
    return exact.round().astype(np.uint8)


def shifts(image: NDArray[np.uint8], padding: int) -> set[bytes]:
    height, width = image.shape[-2:]
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    reach = range(2 * padding + 1)
    return {padded[:, top : top + height, left : left + width].tobytes() for top in reach for left in reach}


def test_each_training_batch_holds_augmented_normalised_images_of_both_halves() -> None:
    whole, *sets = digit_halves()
    found = fit(seeded(SearchData, batch_size=64)).train_batches[0]
    assert len(found) == len(sets[0].labels) // 64
    for half, part in zip(("train", "val"), sets, strict=True):
        origins: dict[bytes, set[int]] = {}
        for image, label in zip(part.images.numpy(), part.labels.tolist(), strict=True):
            for outcome in shifts(image, padding=1):
                origins.setdefault(outcome, set()).add(label)
        untouched = {image.tobytes() for image in part.images.numpy()}
        num_moved = 0
        for batch in found:
            assert set(batch) == {"train", "val"}
            images, labels = batch[half]
            assert (images.dtype, tuple(images.shape)) == (torch.float32, (64, 1, 8, 8))
            assert (labels.dtype, tuple(labels.shape)) == (torch.int64, (64,))
            for image, label in zip(pixels_of(images, whole.images), labels.tolist(), strict=True):
                assert label in origins[image.tobytes()]
                num_moved += image.tobytes() not in untouched
        # Eight in nine draws move the image.
        assert num_moved > 0.7 * 64 * len(found)


def test_validation_batches_are_the_architecture_half_in_order_and_untouched() -> None:
    whole, _, architecture = digit_halves()
    found = fit(seeded(SearchData, eval_batch_size=100), epochs=2).val_batches
    num_batches = -(-len(architecture.labels) // 100)
    assert len(found) == 2 * num_batches
    for epoch in (found[:num_batches], found[num_batches:]):
        images = torch.cat([images for images, _ in epoch])
        assert images.dtype == torch.float32
        np.testing.assert_allclose(images, standardise(architecture.images, whole.images), atol=2e-3)
        assert torch.equal(torch.cat([labels for _, labels in epoch]), architecture.labels)


def test_the_sanity_check_is_not_augmented_either() -> None:
    whole, _, architecture = digit_halves()
    data = seeded(SearchData, eval_batch_size=100)
    found = fit(data, num_sanity_val_steps=1, limit_train_batches=1).val_batches[0][0]
    expected = standardise(architecture.images[: len(found)], whole.images)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def labels_of(recorder: Recorder, half: str) -> list[list[int]]:
    return [[int(n) for batch in epoch for n in batch[half][1]] for epoch in recorder.train_batches]


def test_orders_differ_between_epochs_halves_and_seeds_and_repeat_with_the_seed() -> None:
    first, again, other = (fit(seeded(SearchData, seed), epochs=3, limit_val_batches=0) for seed in (0, 0, 1))
    seen = [labels for recorder in (first, other) for half in ("train", "val") for labels in labels_of(recorder, half)]
    assert len({tuple(labels) for labels in seen}) == len(seen) == 12
    for one, two in zip(all_images(first), all_images(again), strict=True):
        assert torch.equal(one, two)


def test_the_halves_are_shuffled_independently_of_each_other() -> None:
    data = seeded(SearchData)
    assert isinstance(data, SearchData)
    data.setup()
    network, architecture = (loader.sampler for loader in data.train_dataloader().flattened)
    assert network.num_images == architecture.num_images  # so that the same seed would give the same order
    assert flat(network) != flat(architecture)


def all_images(recorder: Recorder) -> Iterator[Tensor]:
    for epoch in recorder.train_batches:
        for batch in epoch:
            for part in batch.values() if isinstance(batch, dict) else [batch]:
                yield part[0]


def test_no_worker_process_is_started() -> None:
    recorder = fit(seeded(SearchData), limit_train_batches=2)
    assert recorder.num_workers == 0


def test_a_search_never_sees_a_test_image() -> None:
    data = seeded(SearchData)
    data.setup()
    _, test = describe("digits", Path()).load(Path(), False)
    served = {image.numpy().tobytes() for part in data.sets.values() for image in part.images}
    assert not served & {image.numpy().tobytes() for image in test.images}


def test_the_state_of_a_data_module_is_its_seed() -> None:
    data, other = (seeded(RetrainData, seed) for seed in (0, 1))
    other.load_state_dict(data.state_dict())
    firsts = []
    for module in (data, other, seeded(RetrainData, 1)):
        module.setup()
        firsts.append(next(iter(module.train_dataloader()))[0])
    assert torch.equal(firsts[0], firsts[1])
    assert not torch.equal(firsts[0], firsts[2])


@pytest.mark.parametrize("epoch", [0, 3])
def test_each_batch_is_given_by_seed_and_epoch(
    epoch: int,
) -> None:
    data = seeded(RetrainData, 5, batch_size=100)
    data.setup()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    first, again = list(loader), list(loader)
    assert len(first) == len(loader) == 14
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one[0], other[0])
    # The draws of an image depend on how many are drawn before it, and on nothing else that is set anywhere.
    positions = torch.cat(list(loader.sampler))
    draws = data.draw(len(positions), loader.sampler.generator(1))
    whole = data.augment(data.sets["train"].images[positions], draws)
    assert torch.equal(torch.cat([images for images, _ in first]), whole)
    assert torch.equal(torch.cat([labels for _, labels in first]), data.sets["train"].labels[positions])


def equal(one: list[Batch], other: list[Batch]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) for left, right in pairs for a, b in zip(left, right, strict=True))


def loader_of() -> Batches:
    data = seeded(RetrainData, 5, batch_size=100)
    data.setup()
    return data.train_dataloader()


@pytest.mark.parametrize("num_at_once", [4, 100])
@pytest.mark.parametrize("num_taken", [0, 1, 5, 13, 14])
def test_an_epoch_goes_on_after_the_batches_that_were_taken(
    num_at_once: int, num_taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Batches, "_num_at_once", lambda self: num_at_once)
    loader = loader_of()
    loader.sampler.set_epoch(2)
    whole = list(loader)
    interrupted = iter(loader)
    for _ in range(num_taken):
        next(interrupted)
    other = loader_of()
    other.load_state_dict(loader.state_dict() if num_taken else {"epoch": 2, "num_taken": 0})
    other.sampler.set_epoch(2)
    assert equal(list(other), whole[num_taken:])
    assert other.num_taken == 14
    assert equal(list(other), whole)  # only once


def test_an_epoch_that_ended_takes_nothing_from_the_next() -> None:
    loader = loader_of()
    list(loader)
    other = loader_of()
    other.load_state_dict(loader.state_dict())
    for each in (loader, other):
        each.sampler.set_epoch(1)
    assert equal(list(loader), list(other))


@settings(deadline=None)
@given(num_images=st.integers(0, 600), world_size=st.integers(1, 9))
def test_shares_are_disjoint_complete_in_order_and_nearly_equal(num_images: int, world_size: int) -> None:
    images = list(range(num_images))
    parts = [images[Share(rank, world_size).of(num_images)] for rank in range(world_size)]
    assert [image for part in parts for image in part] == images
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("kind", ["shuffled", "in_order"])
def test_the_shares_of_all_devices_make_the_batches_of_one(kind: str) -> None:
    data = seeded(SearchData, 5, batch_size=60, eval_batch_size=100)
    data.setup()

    def batches_of(share: Share) -> list[Batch]:
        loader = data.shuffled("train", 0) if kind == "shuffled" else data.in_order("val")
        loader.share = share
        return list(loader)

    parts = zip(*(batches_of(Share(rank, 3)) for rank in range(3)), strict=True)
    joined = [(torch.cat([p[0] for p in part]), torch.cat([p[1] for p in part])) for part in parts]
    assert equal(joined, batches_of(Share()))


def test_final_training_serves_all_training_images_and_the_test_images() -> None:
    train, test = describe("digits", Path()).load(Path(), False)
    data = seeded(RetrainData, batch_size=len(train.labels) // 2, eval_batch_size=100)
    recorder = fit(data)
    seen = [int(label) for _, labels in recorder.train_batches[0] for label in labels]
    assert len(train.labels) % 2 == 0  # so that two batches are the whole set
    assert np.bincount(seen).tolist() == torch.bincount(train.labels).tolist()
    trainer(1).test(recorder, datamodule=data, verbose=False)
    images = torch.cat([images for images, _ in recorder.test_batches])
    np.testing.assert_allclose(images, standardise(test.images, train.images), atol=2e-3)
    assert torch.equal(torch.cat([labels for _, labels in recorder.test_batches]), test.labels)


def test_normalised_training_images_have_mean_zero_and_deviation_one() -> None:
    data = seeded(RetrainData)
    data.setup()
    images = data.prepare(data.sets["train"].images).double()
    assert abs(float(images.mean())) < 1e-5
    assert abs(float(images.std()) - 1) < 1e-5


def test_a_channel_that_never_varies_stays_finite(tmp_path: Path) -> None:
    write_folder(tmp_path, 8)
    data = seeded(RetrainData, name="folder", root=str(tmp_path), image_size=8, batch_size=2)
    data.setup()
    images = data.prepare(data.sets["train"].images)
    assert images.isfinite().all()
    assert (images[:, 1] == 0).all()
    assert (images[:, 0] != 0).any()


def write_folder(root: Path, per_class: int) -> None:
    for part in ("train", "test"):
        for name, red in (("dark", 0), ("light", 250)):
            (root / part / name).mkdir(parents=True)
            for number in range(per_class):
                Image.new("RGB", (8, 8), (red, 7, number)).save(root / part / name / f"{number}.png")


@pytest.mark.parametrize("flip_seed", range(3))
def test_pictures_of_a_folder_are_mirrored_in_training(tmp_path: Path, flip_seed: int) -> None:
    write_folder(tmp_path, 8)
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[None, :, None] * 10 + 9, (8, 8, 3))
    for path in tmp_path.glob("train/*/*.png"):
        Image.fromarray(np.ascontiguousarray(ramp)).save(path)
    data = seeded(RetrainData, flip_seed, name="folder", root=str(tmp_path), image_size=8, batch_size=16)
    images = next(all_images(fit(data)))
    rising = (images[:, 0, 4, 2:6].diff(dim=-1) > 0).all(dim=-1)
    falling = (images[:, 0, 4, 2:6].diff(dim=-1) < 0).all(dim=-1)
    assert (rising | falling).all()
    assert rising.any()
    assert falling.any()


# Mistakes


@pytest.mark.parametrize("kind", [SearchData, RetrainData])
@pytest.mark.parametrize("option", ["batch_size", "eval_batch_size"])
@pytest.mark.parametrize("value", [1, 0, -3])
def test_batches_too_small_for_batch_normalisation_are_refused(kind: type[ImageData], option: str, value: int) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(SupernetError, match=f"^{option} must be at least 2 .*got {value}$"):
        kind(**options)


@pytest.mark.parametrize(("kind", "most"), [(SearchData, 719), (RetrainData, 1438)])
def test_a_batch_larger_than_its_set_is_refused_before_any_training(kind: type[ImageData], most: int) -> None:
    data = seeded(kind, batch_size=most + 1)
    recorder = recorder_for(data)
    with pytest.raises(SupernetError, match=f"batch_size {most + 1} is larger .*--data.batch_size {most} or less"):
        trainer(1).fit(recorder, datamodule=data)
    assert not any(recorder.train_batches)
    assert len(fit(seeded(kind, batch_size=most)).train_batches[0]) == 1


@pytest.mark.parametrize("kind", [SearchData, RetrainData])
def test_a_folder_too_small_to_leave_a_test_image_is_refused(tmp_path: Path, kind: type[ImageData]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "0.png")
    data = seeded(kind, name="folder", root=str(tmp_path), image_size=8, batch_size=2)
    with pytest.raises(SupernetError, match=r"should hold images of shape \(3, 8, 8\)"):
        data.setup()


@pytest.mark.parametrize("kind", [SearchData, RetrainData])
def test_an_unknown_data_set_is_refused_when_the_module_is_made(kind: type[ImageData]) -> None:
    with pytest.raises(SupernetError, match="did you mean 'digits'"):
        kind(name="digitz")


def test_a_missing_folder_is_refused_when_the_module_is_made(tmp_path: Path) -> None:
    with pytest.raises(SupernetError, match="is no folder"):
        SearchData(name="folder", root=str(tmp_path / "nowhere"))


def test_preparing_images_before_they_are_read_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        SearchData().prepare(torch.zeros(1, 1, 8, 8))


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = fit(seeded(SearchData), epochs=3, limit_val_batches=0)
    first, rest = ValidatingRecorder(), ValidatingRecorder()
    interrupted = trainer(1, limit_val_batches=0)
    interrupted.fit(first, datamodule=seeded(SearchData))
    interrupted.save_checkpoint(tmp_path / "last.ckpt")
    resumed = trainer(3, limit_val_batches=0)
    resumed.fit(rest, datamodule=seeded(SearchData), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    for one, two in zip(all_images(whole), [*all_images(first), *all_images(rest)], strict=True):
        assert torch.equal(one, two)


def test_too_few_images_do_not_ask_for_a_batch_size_that_is_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cold", "warm"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "0.png")
    data = SearchData(name="folder", root=str(tmp_path), image_size=8)
    data.setup()
    with pytest.raises(SupernetError, match="is too small: 1 images to train on"):
        data.train_dataloader()
