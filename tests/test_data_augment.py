from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as T
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from supernet.data import DATA_SETS, Normalise, draw_crops
from supernet.data import crop_flip as crop_flip_by


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(batch: int, channels: int = 3, height: int = 8, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(256, (batch, channels, height, width), dtype=torch.uint8, generator=generator(seed))


def crop_flip(images: Tensor, padding: int, flip: bool, source: torch.Generator) -> Tensor:
    return crop_flip_by(images, padding, draw_crops(len(images), padding, flip, source))


def key(image: Tensor) -> bytes:
    return image.numpy().tobytes()


def all_outcomes(image: Tensor, padding: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    height, width = image.shape[-2:]
    padded = T.pad(image, [padding] * 4, fill=0)
    outcomes = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = T.crop(padded, top, left, height, width)
            outcomes[key(crop)] = (top, left, False)
            if flip:
                outcomes[key(T.horizontal_flip(crop))] = (top, left, True)
    return outcomes


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(0, 5),
    channels=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    padding=st.integers(0, 5),
    flip=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_crop_flip_equals_torchvision_image_by_image(
    batch: int, channels: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    images = noise(batch, channels, height, width, seed)
    found = crop_flip(images, padding, flip, generator(seed))
    draws = generator(seed)
    tops, lefts = (torch.randint(2 * padding + 1, (batch,), generator=draws).tolist() for _ in range(2))
    flips = torch.randint(2, (batch,), generator=draws).tolist()
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    for image, result, top, left, mirrored in zip(images, found, tops, lefts, flips, strict=True):
        expected = T.crop(T.pad(image, [padding] * 4, fill=0), top, left, height, width)
        assert torch.equal(result, T.horizontal_flip(expected) if mirrored and flip else expected)


@settings(max_examples=30, deadline=None)
@given(padding=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 2**63 - 1))
def test_every_result_is_some_crop_of_its_own_image(padding: int, flip: bool, seed: int) -> None:
    images = noise(6)
    for image, result in zip(images, crop_flip(images, padding, flip, generator(seed)), strict=True):
        assert key(result) in all_outcomes(image, padding, flip)


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_all_offsets_and_mirrors_of_a_data_set_are_reached_about_equally_often(name: str) -> None:
    padding, flip = DATA_SETS[name].padding, DATA_SETS[name].flip
    image = noise(1)[0]
    outcomes = all_outcomes(image, padding, flip)
    assert len(outcomes) == (2 * padding + 1) ** 2 * (1 + flip)
    repeats = 100 * len(outcomes)
    results = crop_flip(image.expand(repeats, -1, -1, -1), padding, flip, generator())
    kinds = list(outcomes)
    counts = np.bincount([kinds.index(key(result)) for result in results], minlength=len(kinds))
    # Binomial with mean 100 and deviation 10: five deviations to each side.
    assert counts.min() > 50
    assert counts.max() < 150


def test_images_of_one_batch_get_different_draws() -> None:
    image = noise(1)
    results = crop_flip(image.expand(64, -1, -1, -1), 4, True, generator())
    assert len({key(result) for result in results}) > 32


def test_all_channels_of_an_image_share_its_draw() -> None:
    grey = noise(16, channels=1).expand(-1, 3, -1, -1)
    results = crop_flip(grey, 3, True, generator())
    assert torch.equal(results, results[:, :1].expand_as(results))


def test_nothing_to_do_is_the_identity() -> None:
    images = noise(32, height=5, width=7)
    assert torch.equal(crop_flip(images, 0, False, generator()), images)


def test_without_flip_no_image_is_mirrored() -> None:
    ramp = torch.arange(1, 9, dtype=torch.uint8).expand(200, 1, 8, 8)
    steps = crop_flip(ramp, 0, True, generator()).int().diff(dim=-1)
    assert (steps < 0).any()
    unmirrored = crop_flip(ramp, 0, False, generator()).int().diff(dim=-1)
    assert (unmirrored > 0).all()


def test_padding_is_black_and_loses_no_more_than_it_shifts() -> None:
    white = torch.full((100, 1, 6, 6), 255, dtype=torch.uint8)
    results = crop_flip(white, 2, True, generator())
    assert set(results.unique().tolist()) == {0, 255}
    assert ((results > 0).sum((1, 2, 3)) >= 4 * 4).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64, torch.bfloat16])
def test_shape_dtype_and_values_survive_for_every_dtype(dtype: torch.dtype) -> None:
    images = noise(10, height=6, width=9)
    results = crop_flip(images.to(dtype), 2, True, generator())
    assert results.dtype == dtype
    assert results.is_contiguous()
    assert torch.equal(results, crop_flip(images, 2, True, generator()).to(dtype))


def test_the_input_stays_as_it_was() -> None:
    images = noise(10)
    before = images.clone()
    crop_flip(images, 2, True, generator()).fill_(7)
    crop_flip(images, 0, False, generator()).fill_(7)
    assert torch.equal(images, before)


def test_the_generator_alone_decides() -> None:
    images = noise(40)
    torch.manual_seed(1)
    first = crop_flip(images, 4, True, generator(5))
    torch.manual_seed(2)
    assert torch.equal(crop_flip(images, 4, True, generator(5)), first)
    assert not torch.equal(crop_flip(images, 4, True, generator(6)), first)


def test_one_generator_draws_on_from_batch_to_batch() -> None:
    images, source = noise(40), generator()
    assert not torch.equal(crop_flip(images, 4, True, source), crop_flip(images, 4, True, source))


def test_draws_do_not_depend_on_what_the_images_show() -> None:
    marked = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(20, -1, -1, -1)
    both = torch.cat([marked, noise(20, channels=1, seed=3)], dim=1)
    assert torch.equal(crop_flip(both, 2, True, generator())[:, :1], crop_flip(marked, 2, True, generator()))


@settings(max_examples=40, deadline=None)
@given(
    statistics=st.lists(st.tuples(st.floats(0, 255), st.floats(1, 128)), min_size=1, max_size=4),
    batch=st.integers(1, 4),
)
def test_normalise_equals_torchvision_and_numpy(statistics: list[tuple[float, float]], batch: int) -> None:
    mean, std = [m for m, _ in statistics], [s for _, s in statistics]
    images = noise(batch, channels=len(mean))
    found = Normalise(mean, std)(images)
    assert found.dtype == torch.float32
    # torchvision divides by 255 first, where the published statistics live.
    scaled = v2.functional.to_dtype(images, torch.float32, scale=True)
    expected = v2.Normalize([m / 255 for m in mean], [s / 255 for s in std])(scaled)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    exact = (images.numpy().astype(np.float64) - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-5, atol=1e-4)


def test_normalise_has_nothing_to_train_and_is_found_in_checkpoints() -> None:
    normalise = Normalise([1.0, 2.0], [3.0, 4.0])
    assert not list(normalise.parameters())
    assert {name: value.flatten().tolist() for name, value in normalise.state_dict().items()} == {
        "mean": [1.0, 2.0],
        "std": [3.0, 4.0],
    }
