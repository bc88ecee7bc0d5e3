from __future__ import annotations

import contextlib
import importlib.util
import os
import pickle
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from supernet.data import DATA_SETS, ImageSet, describe, halves
from supernet.data.imagenet16 import load_part
from supernet.errors import SupernetError

SHARED = Path(__file__).resolve().parents[1].parent / "shared"

Pixels = NDArray[np.uint8]


def load(name: str, root: Path, image_size: int = 8) -> tuple[ImageSet, ImageSet]:
    return describe(name, root, image_size if name == "folder" else None).load(root, False)


def counted(images: Tensor, labels: Tensor) -> Counter[tuple[bytes, int]]:
    return Counter((image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


# Splits


def test_halves_of_50000_are_the_official_split_of_nas_bench_201() -> None:
    network, architecture = halves(50_000)
    assert network[:4] == [0, 5, 7, 11]
    assert architecture[:4] == [1, 2, 3, 4]
    # The published recipe, with the global generator as the reference code seeds it.
    state = random.getstate()
    random.seed(1021)
    order = list(range(50_000))
    random.shuffle(order)
    random.setstate(state)
    assert network == sorted(order[:25_000])
    assert architecture == sorted(order[25_000:])


@given(st.integers(0, 3_000))
def test_halves_partition_any_number_of_images(num_images: int) -> None:
    network, architecture = halves(num_images)
    assert sorted(network + architecture) == list(range(num_images))
    assert 0 <= len(architecture) - len(network) <= 1
    assert network == sorted(network)
    assert architecture == sorted(architecture)


def test_halves_leave_the_global_generator_alone() -> None:
    before = random.getstate()
    halves(100)
    assert random.getstate() == before


def test_subset_keeps_the_order_it_is_given() -> None:
    images = ImageSet(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(10, 15))
    chosen = images.subset([3, 0, 3])
    assert chosen.images.flatten().tolist() == [3, 0, 3]
    assert chosen.labels.tolist() == [13, 10, 13]
    assert len(images.subset([]).labels) == 0


# Data sets by name


@pytest.mark.parametrize(
    ("name", "guess"),
    [("digit", "digits"), ("CIFAR10", "cifar10"), ("cifar-100", "cifar100"), ("imagenet16", "imagenet16-120")],
)
def test_an_unknown_data_set_names_the_nearest(name: str, guess: str, tmp_path: Path) -> None:
    with pytest.raises(SupernetError, match=f"'{name}'.*did you mean '{guess}'.*known: .*folder"):
        describe(name, tmp_path, 32)


def test_a_name_near_none_lists_all(tmp_path: Path) -> None:
    with pytest.raises(SupernetError, match="digits, cifar10, cifar100, imagenet16-120, folder") as error:
        describe("zzz", tmp_path, 32)
    assert "did you mean" not in str(error.value)


# Digits


def test_digits_are_the_1797_images_of_scikit_learn_each_exactly_once(tmp_path: Path) -> None:
    train, test = load("digits", tmp_path)
    assert len(train.labels) + len(test.labels) == 1_797
    assert len(test.labels) == 1_797 // 5
    source = load_digits()
    levels = (source.data.reshape(-1, 1, 8, 8) * 15).astype(np.uint8)
    expected = Counter((image.tobytes(), int(label)) for image, label in zip(levels, source.target, strict=True))
    # No image of scikit-learn's occurs twice, so that equal counts mean disjoint sets.
    assert set(expected.values()) == {1}
    assert counted(*train) + counted(*test) == expected


def test_digits_look_as_described(tmp_path: Path) -> None:
    described = describe("digits", tmp_path)
    for part in load("digits", tmp_path):
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert tuple(part.images.shape[1:]) == described.image_shape == (1, 8, 8)
        assert set(part.labels.tolist()) == set(range(described.num_classes))
        assert (int(part.images.min()), int(part.images.max())) == (0, 240)


def test_digits_are_split_the_same_way_every_time(tmp_path: Path) -> None:
    first = load("digits", tmp_path)
    random.seed(5)
    torch.manual_seed(5)
    for part, again in zip(first, load("digits", tmp_path), strict=True):
        assert torch.equal(part.images, again.images)
        assert torch.equal(part.labels, again.labels)


# A folder of images


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def two_classes(root: Path, per_class: int = 1) -> Path:
    for number in range(per_class):
        save(root / "warm" / f"{number}.png", (200, number, 0))
        save(root / "cold" / f"{number}.png", (0, number, 200))
    return root


def test_a_folder_with_train_and_test_serves_both(tmp_path: Path) -> None:
    two_classes(tmp_path / "train", 3)
    two_classes(tmp_path / "test", 2)
    train, test = load("folder", tmp_path)
    for part, per_class in ((train, 3), (test, 2)):
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert part.labels.tolist() == [0] * per_class + [1] * per_class
        # Classes are numbered by name: cold is 0.
        colours = part.images[:, :, 0, 0].tolist()
        cold, warm = [[0, n, 200] for n in range(per_class)], [[200, n, 0] for n in range(per_class)]
        assert colours == cold + warm


@pytest.mark.parametrize("per_class", [3, 5, 10])
def test_a_folder_without_train_and_test_is_divided_four_to_one(tmp_path: Path, per_class: int) -> None:
    two_classes(tmp_path, per_class)
    train, test = load("folder", tmp_path)
    assert len(test.labels) == 2 * per_class // 5
    together = sorted(torch.cat([part.images[:, :, 0, 0] for part in (train, test)]).tolist())
    assert together == sorted([[0, n, 200] for n in range(per_class)] + [[200, n, 0] for n in range(per_class)])
    for part in (train, test):
        assert part.labels.tolist() == [int(red == 200) for red in part.images[:, 0, 0, 0].tolist()]


def test_a_folder_is_described_by_what_lies_in_it(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / name / "x.png", (1, 2, 3))
    described = describe("folder", tmp_path, 32)
    assert (described.num_classes, described.image_shape, described.padding) == (3, (3, 32, 32), 4)
    assert describe("folder", tmp_path, 16).padding == 2


@pytest.mark.parametrize("upright", [False, True])
def test_the_centre_of_a_picture_that_is_not_square_is_kept(tmp_path: Path, upright: bool) -> None:
    centre = np.random.default_rng(0).integers(1, 256, (8, 8, 3), dtype=np.uint8)
    wide = np.pad(centre, ((0, 0), (3, 3), (0, 0)))
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "test")
    picture = wide.swapaxes(0, 1) if upright else wide
    Image.fromarray(np.ascontiguousarray(picture)).save(tmp_path / "test" / "cold" / "0.png")
    found = load("folder", tmp_path)[1].images[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, centre.swapaxes(0, 1) if upright else centre)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3), (9, 8), (17, 31), (64, 64)])
@pytest.mark.parametrize("image_size", [4, 16])
def test_a_picture_of_any_size_becomes_a_square_of_its_colour(
    tmp_path: Path, size: tuple[int, int], image_size: int
) -> None:
    for part in ("train", "test"):
        two_classes(tmp_path / part)
        save(tmp_path / part / "cold" / "0.png", (10, 20, 30), size)
    found = load("folder", tmp_path, image_size)[0].images
    assert found.shape == (2, 3, image_size, image_size)
    assert torch.equal(found[0], torch.tensor([10, 20, 30]).byte().view(3, 1, 1).expand(3, image_size, image_size))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK"])
def test_pictures_of_other_modes_become_the_colours_that_pillow_shows(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    for part in ("train", "test"):
        two_classes(tmp_path / part)
    (tmp_path / "test" / "cold" / "0.png").unlink()
    picture.save(tmp_path / "test" / "cold" / "0.tif")
    found = load("folder", tmp_path)[1].images[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, np.asarray(picture.convert("RGB")))
    if mode == "L":
        np.testing.assert_array_equal(found[..., 0], np.asarray(picture))
        np.testing.assert_array_equal(found[..., 2], np.asarray(picture))


def missing(root: Path) -> Path:
    return root / "nowhere"


def a_file(root: Path) -> Path:
    (root / "file").write_text("not a folder")
    return root / "file"


def empty(root: Path) -> Path:
    return root


def one_class(root: Path) -> Path:
    save(root / "only" / "0.png", (1, 1, 1))
    return root


def no_test(root: Path) -> Path:
    two_classes(root / "train")
    return root


def other_classes(root: Path) -> Path:
    two_classes(root / "train")
    save(root / "test" / "cold" / "0.png", (1, 1, 1))
    save(root / "test" / "hot" / "0.png", (1, 1, 1))
    return root


def class_without_images(root: Path) -> Path:
    two_classes(root)
    (root / "vacant").mkdir()
    (root / "vacant" / "notes.txt").write_text("no image")
    return root


def broken_image(root: Path) -> Path:
    two_classes(root, 5)
    intact = root / "warm" / "0.png"
    (root / "warm" / "broken.png").write_bytes(intact.read_bytes()[:40])
    return root


def text_as_image(root: Path) -> Path:
    two_classes(root, 5)
    (root / "warm" / "broken.jpg").write_text("hello")
    return root


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (missing, "nowhere is no folder; pass --data.root"),
        (a_file, "file is no folder; pass --data.root"),
        (empty, r"holds 0 class folder\(s\), at least 2 are needed.*ROOT/CLASS/"),
        (one_class, r"holds 1 class folder\(s\), at least 2 are needed"),
        (no_test, "has train/ but no test/.*ROOT/test/CLASS/"),
        (other_classes, "classes under train/ and test/ of .* differ"),
        (class_without_images, "has a class without images.*vacant"),
        (broken_image, r"broken.png cannot be read as an image .*; repair or remove it"),
        (text_as_image, r"broken.jpg cannot be read as an image .*; repair or remove it"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, build: Any, message: str) -> None:
    root = build(tmp_path)
    with pytest.raises(SupernetError, match=message):
        load("folder", root)


# ImageNet16-120


def python2_pickle(data: Pixels, labels: list[int]) -> bytes:
    """A record as Python 2 wrote it: byte strings instead of text, protocol 2."""
    raw = data.tobytes()
    rows, columns = (b"J" + struct.pack("<i", size) for size in data.shape)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    array += b"(K\x01" + rows + columns + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
    array += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
    array += struct.pack("<i", len(raw)) + raw + b"tb"
    numbers = b"](" + b"".join(b"J" + struct.pack("<i", label) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


def python3_pickle(data: Pixels, labels: list[int]) -> bytes:
    return pickle.dumps({"data": data, "labels": labels, "mean": data.mean(0)}, protocol=4)


def imagenet_parts(seed: int = 0) -> list[tuple[Pixels, list[int]]]:
    source = np.random.default_rng(seed)
    labels = [[1, 120, 121, 1000, *source.integers(1, 1001, 4).tolist()] for _ in range(11)]
    return [(source.integers(0, 256, (len(part), 768), dtype=np.uint8), part) for part in labels]


def write_imagenet(root: Path, write: Any = python3_pickle) -> list[tuple[Pixels, list[int]]]:
    root.mkdir(parents=True, exist_ok=True)
    names = [f"train_data_batch_{number}" for number in range(1, 11)] + ["val_data"]
    parts = imagenet_parts()
    for name, part in zip(names, parts, strict=True):
        (root / name).write_bytes(write(*part))
    return parts


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle])
@pytest.mark.parametrize("folder", [".", "ImageNet16"])
def test_imagenet16_keeps_the_first_120_classes_and_numbers_them_from_zero(
    tmp_path: Path,
    write: Any,
    folder: str,
) -> None:
    parts = write_imagenet(tmp_path / folder, write)
    for found, expected in zip(load("imagenet16-120", tmp_path), (parts[:10], parts[10:]), strict=True):
        kept = [
            (row.reshape(3, 16, 16), label - 1)
            for data, labels in expected
            for row, label in zip(data, labels, strict=True)
            if label in range(1, 121)
        ]
        assert found.images.dtype == torch.uint8
        assert found.labels.dtype == torch.int64
        np.testing.assert_array_equal(found.images.numpy(), np.stack([image for image, _ in kept]))
        assert found.labels.tolist() == [label for _, label in kept]
        assert {0, 119} <= set(found.labels.tolist()) <= set(range(120))


@pytest.mark.parametrize("name", ["train_data_batch_1", "train_data_batch_10", "val_data"])
def test_a_missing_part_of_imagenet16_is_named(tmp_path: Path, name: str) -> None:
    write_imagenet(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(SupernetError, match=rf"{name} is missing.*pass --data.root"):
        load("imagenet16-120", tmp_path)


def small_record() -> tuple[Pixels, list[int]]:
    return np.arange(768, dtype=np.int64).astype(np.uint8)[None], [7]


@pytest.mark.parametrize("write", [python2_pickle, python3_pickle])
def test_every_truncation_of_an_imagenet16_file_is_refused(tmp_path: Path, write: Any) -> None:
    raw = write(*small_record())
    for length in [*range(250), *range(250, len(raw) - 40, 50), *range(len(raw) - 40, len(raw))]:
        (tmp_path / "train_data_batch_1").write_bytes(raw[:length])
        with pytest.raises(SupernetError, match="train_data_batch_1 is no part of ImageNet16"):
            load("imagenet16-120", tmp_path)


@pytest.mark.parametrize("raw", [b"", b"<!DOCTYPE html>", b"\x89PNG\r\n", bytes(100), b"PK\x03\x04", b"\x80\x7f."])
def test_a_file_that_is_no_pickle_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "train_data_batch_1").write_bytes(raw)
    with pytest.raises(SupernetError, match="train_data_batch_1 is no part of ImageNet16"):
        load("imagenet16-120", tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        None,
        [1, 2],
        {},
        {"data": small_record()[0]},
        {"labels": [1]},
        {"data": small_record()[0][:, 1:], "labels": [1]},
        {"data": small_record()[0].astype(np.float32), "labels": [1]},
        {"data": small_record()[0], "labels": [1, 2]},
        {"data": small_record()[0], "labels": ["cat"]},
        {"data": small_record()[0].tolist(), "labels": [1]},
    ],
    ids=["none", "list", "empty", "unlabelled", "no data", "narrow", "float", "too many", "text", "rows"],
)
def test_a_record_of_the_wrong_form_is_refused(tmp_path: Path, record: Any) -> None:
    (tmp_path / "train_data_batch_1").write_bytes(pickle.dumps(record, protocol=4))
    with pytest.raises(SupernetError, match=r"train_data_batch_1 .*fetch it again"):
        load("imagenet16-120", tmp_path)


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


class Evaluate(Touch):
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (f"__import__('os').mkdir({str(self.marker)!r})",)


@pytest.mark.parametrize("attack", [Touch, Evaluate])
@pytest.mark.parametrize("place", ["whole", "labels", "unused"])
def test_a_pickle_that_wants_to_run_something_is_refused_and_does_not_run(
    tmp_path: Path, attack: type[Touch], place: str
) -> None:
    data, labels = small_record()
    marker = tmp_path / "marker"
    payload = attack(marker)
    record = {
        "whole": payload,
        "labels": {"data": data, "labels": payload},
        "unused": {"data": data, "labels": labels, "mean": payload},
    }[place]
    raw = pickle.dumps(record, protocol=4)
    (tmp_path / "train_data_batch_1").write_bytes(raw)
    with pytest.raises(SupernetError, match=r"asks for \w+\.(system|eval)"):
        load("imagenet16-120", tmp_path)
    assert not marker.exists()
    pickle.loads(raw)
    assert marker.exists()  # the attack is real: the plain unpickler runs it


# CIFAR


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = SHARED / "data" / "restore.py"
    if not script.is_file():
        pytest.skip(f"CIFAR-10 is not there: no {script}")
    spec = importlib.util.spec_from_file_location("restore", script)
    assert spec is not None
    assert spec.loader is not None
    restore = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(restore)
    root = tmp_path_factory.mktemp("cifar")
    restore.restore(str(script.parent), str(root), "cifar10")
    return root


def test_cifar10_is_read_whole_and_has_the_published_statistics(cifar10: Path) -> None:
    train, test = load("cifar10", cifar10)
    described = DATA_SETS["cifar10"]
    for part, size in ((train, 50_000), (test, 10_000)):
        assert part.images.dtype == torch.uint8
        assert tuple(part.images.shape) == (size, *described.image_shape)
        assert torch.bincount(part.labels).tolist() == [size // 10] * 10
    for channel in range(3):
        histogram = np.bincount(train.images[:, channel].flatten().numpy(), minlength=256) / (50_000 * 32 * 32)
        levels = np.arange(256)
        mean = float(histogram @ levels)
        assert described.mean is not None
        assert described.std is not None
        # Published with one decimal.
        assert mean == pytest.approx(described.mean[channel], abs=0.051)
        assert np.sqrt(histogram @ (levels - mean) ** 2) == pytest.approx(described.std[channel], abs=0.051)
    sample = np.load(SHARED / "data" / "cifar10" / "cifar10_mini.npz")
    for part, name in ((train, "train"), (test, "test")):
        chosen = part.subset(sample[f"{name}_index"].tolist())
        np.testing.assert_array_equal(chosen.images.permute(0, 2, 3, 1).numpy(), sample[f"{name}_images"])
        np.testing.assert_array_equal(chosen.labels.numpy(), sample[f"{name}_labels"])


def test_a_truncated_batch_of_cifar10_is_refused(cifar10: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for file in (cifar10 / "cifar-10-batches-py").iterdir():
        (folder / file.name).symlink_to(file)
    batch = folder / "data_batch_3"
    raw = batch.read_bytes()
    batch.unlink()
    batch.write_bytes(raw[:-1])
    with pytest.raises(SupernetError, match=r"no intact cifar-10-batches-py under .*--data.download true"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_a_missing_cifar_says_how_to_get_it_and_fetches_nothing(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(SupernetError, match=rf"no intact {folder} under .*--data.download true.*--data.root"):
        load(name, tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("labels", [[0], [-5], 5, [[1], [2]], [10**30], [1.7]])
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: object) -> None:
    data = np.zeros((2 if labels == [[1], [2]] else 1, 768), np.uint8)
    for name in [f"train_data_batch_{n}" for n in range(1, 11)] + ["val_data"]:
        (tmp_path / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=4))
    with pytest.raises(SupernetError):
        load("imagenet16-120", tmp_path)


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(np.zeros(3), protocol=4),
        b"\x95" + struct.pack("<Q", 2**63),
        b"\x95" + struct.pack("<Q", 2**56),
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I10000000000000\ntS'b'\ntR.",
    ],
)
def test_pickles_that_go_wrong_in_other_ways(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "train_data_batch_1").write_bytes(raw)
    with pytest.raises(SupernetError):
        load("imagenet16-120", tmp_path)


def test_broken_headers_of_png_and_ppm(tmp_path: Path) -> None:
    for name, raw in (("x.ppm", b"P6\n9 x\n255\n"), ("y.ppm", b"P6\n9 9\n255\nab")):
        two_classes(tmp_path, 3)
        (tmp_path / "warm" / name).write_bytes(raw)
        with pytest.raises(SupernetError):
            load("folder", tmp_path)
        (tmp_path / "warm" / name).unlink()


def test_a_decompression_bomb(tmp_path: Path) -> None:
    two_classes(tmp_path, 3)
    Image.new("1", (20000, 20000)).save(tmp_path / "warm" / "0.png")
    with pytest.raises(SupernetError):
        load("folder", tmp_path)


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"P6\n#", id="a comment without end"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\x7f\xff\xff\xfftEXt", id="a chunk of two gigabytes"),
        pytest.param(
            b"II*\0" + struct.pack("<IHHHIII", 8, 1, 305, 2, 800_000_000, 100, 0), id="a tag of almost a gigabyte"
        ),
    ],
)
def test_a_huge_file_is_refused_by_its_length(tmp_path: Path, begin: bytes) -> None:
    two_classes(tmp_path, 3)
    with (tmp_path / "warm" / "0.png").open("wb") as file:
        file.write(begin)
        file.truncate(2**40)
    with pytest.raises(SupernetError, match=r"it has 1,099,511,627,776 bytes, and 67,108,864 are the limit"):
        load("folder", tmp_path)


def test_a_palette_with_transparency_does_not_warn(tmp_path: Path) -> None:
    two_classes(tmp_path, 3)
    picture = Image.effect_noise((8, 8), 50).convert("RGB").convert("P")
    picture.save(tmp_path / "warm" / "0.png", transparency=bytes(range(256)))
    load("folder", tmp_path)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_imagenet16_pickled_with_any_common_protocol(tmp_path: Path, protocol: int) -> None:
    data, labels = small_record()
    for name in [f"train_data_batch_{n}" for n in range(1, 11)] + ["val_data"]:
        (tmp_path / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=protocol))
    train, _ = load("imagenet16-120", tmp_path)
    kept = data[np.asarray(labels) <= 120]
    assert train.images[: len(kept)].flatten(1).numpy().tolist() == kept.tolist()


def test_a_pickle_cannot_reach_into_memory(tmp_path: Path) -> None:
    # The state of the dtype says that the bytes are object pointers; numpy itself would follow them.
    hostile = python2_pickle(*small_record()).replace(b"K\x00tb\x89T", b"K\x3ftb\x89T")
    assert hostile != python2_pickle(*small_record())
    for name in [f"train_data_batch_{n}" for n in range(1, 11)] + ["val_data"]:
        (tmp_path / name).write_bytes(hostile)
    train, _ = load("imagenet16-120", tmp_path)
    assert train.images.max() <= 255


# 500 pickles with up to four bytes changed. Most are refused; some change a pixel and are read.
@settings(
    max_examples=500, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_mutated_pickle_is_read_or_refused(tmp_path: Path, edits: list[tuple[int, int]]) -> None:
    raw = bytearray(pickle.dumps({"data": np.zeros((2, 768), np.uint8), "labels": [1, 200]}, protocol=3))
    for position, value in edits:
        # Half of the edits hit the first and the last bytes, where the structure is.
        place = position % len(raw) if position % 2 else (position // 2 % 200) - 60
        raw[place] = value
    (tmp_path / "part").write_bytes(raw)
    with contextlib.suppress(SupernetError):
        assert load_part(tmp_path / "part").images.shape[1:] == (3, 16, 16)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pixels_of_more_than_8_bits_are_refused_rather_than_clipped(tmp_path: Path, mode: str) -> None:
    two_classes(tmp_path, 3)
    Image.new(mode, (8, 8)).save(tmp_path / "warm" / "9.tiff")
    with pytest.raises(SupernetError, match="not 8 bits a channel"):
        load("folder", tmp_path)


@pytest.mark.parametrize("image_size", [0, -4, 30])
def test_a_size_that_the_network_cannot_halve_twice_is_refused_at_once(tmp_path: Path, image_size: int) -> None:
    with pytest.raises(SupernetError, match="multiples of 4"):
        describe("folder", two_classes(tmp_path, 5), image_size)


def test_a_size_for_images_that_have_one_is_refused() -> None:
    with pytest.raises(SupernetError, match="image_size=16 is for 'folder' only"):
        describe("digits", Path("data"), 16)


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    two_classes(tmp_path, 5)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert describe("folder", tmp_path, 8).num_classes == 2


def test_images_that_come_class_by_class_are_mixed_in_both_halves() -> None:
    labels = [number // 100 for number in range(1_000)]
    for half in halves(1_000, by_class=True):
        assert len({labels[position] for position in half[:50]}) >= 8
    assert [sorted(half) for half in halves(1_000, by_class=True)] == [*halves(1_000)]
