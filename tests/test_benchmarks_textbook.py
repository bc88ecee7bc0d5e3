"""The baseline computes what the supernet computes, and its loader and its step do what they say."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.textbook import (
    GRAD_CLIP,
    TextbookSupernet,
    textbook_of,
    textbook_optimizers,
    textbook_step,
)
from benchmarks.worker_loader import textbook_loader
from supernet.cost import cost
from supernet.data import ImageSet, Normalise
from supernet.network import Supernet
from supernet.space import CellSpace
from supernet.strategies import DARTS, GDAS, Batch, RandomSearch, SearchStrategy
from tests.textbook import textbook_supernet

SPACES = [
    CellSpace(),
    CellSpace(3, ("nor_conv_5x5", "max_pool_3x3", "none")),
    CellSpace(5, ("skip_connect", "nor_conv_1x1")),
]
KINDS = ["softmax", "one-hot", "one path"]


def small_supernet(space: CellSpace, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    return Supernet(space, channels=3, num_cells=1, num_classes=4, image_channels=2).double()


def mixture_of(space: CellSpace, kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(space.num_edges, space.num_ops, generator=generator, dtype=torch.float64)
    if kind == "softmax":
        return logits.softmax(dim=1)
    return F.one_hot(logits.argmax(dim=1), space.num_ops).double()


def batch_of(seed: int, size: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 2, 8, 8, generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (size,), generator=generator)


def gradients(network: nn.Module, mixture: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the mixture; those of the parameters stay with them."""
    images, labels = batch_of(1)
    mixture = mixture.clone().requires_grad_()
    logits = network(images, mixture)
    F.cross_entropy(logits, labels).backward()
    return logits.detach(), torch.zeros_like(mixture) if mixture.grad is None else mixture.grad


def gradient_of(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def gradients_by_edge(supernet: Supernet, textbook: TextbookSupernet) -> list[tuple[Tensor, Tensor]]:
    """Pairs of gradients of the same parameter in both networks, kernels edge by edge."""
    space, shared = supernet.space, dict(supernet.named_parameters())
    pairs = []
    for name, parameter in textbook.named_parameters():
        if name in shared:
            pairs.append((gradient_of(shared[name]), gradient_of(parameter)))
            continue
        _, block, _, edge, column, *_ = name.split(".")
        target, source = space.edges[int(edge)]
        whole = shared[f"blocks.{block}.convolutions.{source}.{space.ops[int(column)]}.weight"]
        pairs.append(
            (gradient_of(whole).chunk(space.num_nodes - 1 - source)[target - source - 1], gradient_of(parameter))
        )
    return pairs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", SPACES, ids=lambda space: f"{space.num_nodes} nodes")
def test_logits_and_all_gradients_are_those_of_the_supernet(space: CellSpace, kind: str) -> None:
    supernet, mixture = small_supernet(space), mixture_of(space, kind)
    textbook = textbook_of(supernet, one_path=kind == "one path")
    logits, by_mixture = gradients(supernet, mixture)
    textbook_logits, textbook_by_mixture = gradients(textbook, mixture)
    torch.testing.assert_close(textbook_logits, logits, rtol=1e-9, atol=1e-10)
    # A candidate that the supernet does not run has no gradient there.
    torch.testing.assert_close(textbook_by_mixture * (mixture != 0), by_mixture, rtol=1e-9, atol=1e-10)
    pairs = gradients_by_edge(supernet, textbook)
    assert sum(a.numel() for a, _ in pairs) == sum(parameter.numel() for parameter in supernet.parameters())
    for fused, by_itself in pairs:
        torch.testing.assert_close(by_itself, fused, rtol=1e-9, atol=1e-10)
    assert any(by_itself.abs().max() > 1e-3 for _, by_itself in pairs)


def test_it_agrees_with_the_functional_oracle_of_the_tests() -> None:
    supernet, mixture = small_supernet(CellSpace()), mixture_of(CellSpace(), "softmax")
    images, _ = batch_of(2)
    expected = textbook_supernet(supernet, images, mixture)
    torch.testing.assert_close(textbook_of(supernet)(images, mixture), expected, rtol=1e-9, atol=1e-10)


def test_one_path_runs_one_convolution_an_edge_and_the_candidates_left_out_add_their_bare_coefficient() -> None:
    space = CellSpace()
    textbook = textbook_of(small_supernet(space), one_path=True)
    mixture = mixture_of(space, "one-hot")
    images, labels = batch_of(1)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        textbook(images, mixture)
    genotype = space.genotype(mixture.argmax(dim=1).tolist())
    # PyTorch counts two operations a multiply-accumulate, and leaves the bias of the classifier out.
    macs = cost(genotype, 3, 1, 4, (2, 8, 8)).macs - 4
    assert counter.get_total_flops() == 2 * len(images) * macs
    _, gradient = gradients(textbook, mixture)
    # Adding e to a bare coefficient adds e to every feature of the edge.
    step = torch.zeros_like(mixture)
    edge, column = -1, int(mixture[-1].argmin())
    step[edge, column] = 1e-6
    with torch.no_grad():
        ahead, behind = (F.cross_entropy(textbook(images, mixture + sign * step), labels) for sign in (1, -1))
    torch.testing.assert_close(gradient[edge, column], (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)
    assert gradient[edge, column] != 0


def test_parameters_and_features_have_the_default_layout() -> None:
    textbook = TextbookSupernet(channels=4, num_cells=1)
    assert all(parameter.is_contiguous() for parameter in textbook.parameters())
    seen: list[bool] = []
    for module in textbook.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: seen.append(output.is_contiguous()))
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    textbook(images, mixture_of(CellSpace(), "softmax"))
    assert seen
    assert all(seen)


def bound(search: SearchStrategy, space: CellSpace) -> SearchStrategy:
    search.bind(space, 3)
    return search.double()


def test_a_step_follows_the_published_updates_written_out() -> None:
    space = CellSpace()
    network, search = textbook_of(small_supernet(space)), bound(DARTS(), space)
    train, val = batch_of(1), batch_of(2)
    assert isinstance(search, DARTS)
    network.head.get_parameter("4.weight").data *= 100  # a gradient that is long enough to be clipped
    reference, logits = copy.deepcopy(network), search.logits.detach().clone().requires_grad_()
    optimizers = textbook_optimizers(network, search)
    seen: list[float] = []
    textbook_step(network, search, *optimizers, train, val, read=lambda loss: seen.append(loss.item()))

    expected_arch = F.cross_entropy(reference(val[0], logits.softmax(dim=1)), val[1])
    (gradient,) = torch.autograd.grad(expected_arch, logits)
    gradient = gradient + 1e-3 * logits.detach()
    # The bias corrections of Adam's first step cancel its decay rates.
    updated = logits.detach() - 3e-4 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(search.logits.detach(), updated, rtol=1e-9, atol=1e-12)

    expected_network = F.cross_entropy(reference(train[0], updated.softmax(dim=1)), train[1])
    slopes = torch.autograd.grad(expected_network, list(reference.parameters()))
    norm = torch.cat([slope.flatten() for slope in slopes]).norm()
    scale = GRAD_CLIP / (float(norm) + 1e-6)
    assert scale < 0.9
    for found, before, slope in zip(network.parameters(), reference.parameters(), slopes, strict=True):
        descent = scale * slope + 5e-4 * before
        # Nesterov's first step: the momentum buffer starts as the gradient itself.
        torch.testing.assert_close(found, before - 0.025 * 1.9 * descent, rtol=1e-8, atol=1e-10)
    assert seen == pytest.approx([expected_arch.item(), expected_network.item()])


@pytest.mark.parametrize("kind", [GDAS, RandomSearch])
def test_one_path_steps_move_what_they_train(kind: type[SearchStrategy]) -> None:
    space = CellSpace()
    network, search = textbook_of(small_supernet(space), one_path=True), bound(kind(), space)
    before = {name: value.clone() for name, value in (*network.named_parameters(), *search.named_parameters())}
    textbook_step(network, search, *textbook_optimizers(network, search), batch_of(1), batch_of(2))
    moved = {
        name
        for name, value in (*network.named_parameters(), *search.named_parameters())
        if not torch.equal(before[name], value)
    }
    assert {"stem.0.weight", "head.4.weight"} <= moved
    assert ("logits" in moved) == (kind is GDAS)


def numbered_images(num_images: int, channels: int, size: int) -> ImageSet:
    """Every pixel of image i has the value i + 1, so that a pixel tells which image it is from."""
    values = torch.arange(1, num_images + 1, dtype=torch.uint8)
    return ImageSet(values[:, None, None, None].repeat(1, channels, size, size), torch.arange(num_images) % 7)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_pairs_the_halves_and_augments_and_normalises_each_image(num_workers: int) -> None:
    images, halves = numbered_images(20, 3, 8), (list(range(0, 20, 2)), list(range(1, 20, 2)))
    mean, std = (10.0, 20.0, 30.0), (2.0, 3.0, 4.0)
    torch.manual_seed(0)
    loader = textbook_loader(images, halves, mean, std, padding=2, batch_size=4, num_workers=num_workers)
    batches = list(loader)
    assert [len(batch[1]) for batch in batches] == [4, 4, 2]
    seen: list[int] = []
    for pictures, labels, val_pictures, val_labels in batches:
        for half, (found, classes) in zip(halves, [(pictures, labels), (val_pictures, val_labels)], strict=True):
            assert found.shape == (len(classes), 3, 8, 8)
            values = found * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
            # The centre survives every crop by two pixels, and black pixels come in from outside.
            centre = values[:, :, 2:6, 2:6].round().long()
            positions = centre[:, 0, 0, 0] - 1
            assert (centre == positions[:, None, None, None] + 1).all()
            known = torch.minimum(values.abs(), (values - centre[:, :1, :1, :1]).abs())
            torch.testing.assert_close(known, torch.zeros_like(known), rtol=0, atol=1e-4)
            assert set(positions.tolist()) <= set(half)
            assert torch.equal(images.labels[positions], classes)
            seen += positions.tolist() if half is halves[0] else []
    assert sorted(seen) == halves[0]
    assert seen != halves[0]


def test_without_a_crop_an_image_is_itself_or_its_mirror_image_normalised_as_in_the_package() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 3, 8, 8), dtype=torch.uint8, generator=generator)
    mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    indices = list(range(12))
    loader = textbook_loader(
        ImageSet(pixels, torch.arange(12)), (indices, indices), mean, std, padding=0, num_workers=0
    )
    expected = Normalise(mean, std)(pixels)
    mirrored = []
    for image, label in itertools.chain(*(zip(images, labels, strict=True) for images, labels, *_ in loader)):
        as_it_was, mirror = expected[label], expected[label].flip(2)
        flipped = bool((image - mirror).abs().max() < (image - as_it_was).abs().max())
        torch.testing.assert_close(image, mirror if flipped else as_it_was, rtol=1e-5, atol=1e-5)
        mirrored.append(flipped)
    assert set(mirrored) == {False, True}


def test_the_loader_takes_grey_images() -> None:
    images = numbered_images(6, 1, 8)
    loader = textbook_loader(images, ([0, 1, 2], [3, 4, 5]), (0.0,), (255.0,), padding=0, num_workers=0)
    pictures, labels, _, _ = next(iter(loader))
    assert pictures.shape == (3, 1, 8, 8)
    assert torch.equal((pictures[:, 0, 0, 0] * 255).round().long() - 1, labels)
