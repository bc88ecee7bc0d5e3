from __future__ import annotations

import pytest
import torch
from torch import Tensor

from supernet.errors import SupernetError
from supernet.replay import WARM_UP, Recorder, Recording, recorder
from tests.soft_graph import SoftGraph

HOST = torch.device("cpu")


def scaled_sum(images: Tensor, factor: Tensor) -> tuple[Tensor, ...]:
    return ((images * factor).relu().sum(dim=1), images.t().contiguous())


def test_a_recording_computes_the_function_of_new_inputs() -> None:
    recording = Recording(scaled_sum, (torch.zeros(3, 2), torch.ones(())), SoftGraph())
    for _ in range(3):
        images, factor = torch.randn(3, 2), torch.randn(())
        for found, expected in zip(recording((images, factor)), scaled_sum(images, factor), strict=True):
            assert found.equal(expected)


def test_a_recording_leaves_its_example_and_its_inputs_alone() -> None:
    def in_place(images: Tensor) -> tuple[Tensor]:
        return (images.add_(1),)

    example, images = torch.zeros(2), torch.full((2,), 5.0)
    recording = Recording(in_place, (example,), SoftGraph())
    assert recording((images,))[0].tolist() == [6.0, 6.0]
    assert recording((images,))[0].tolist() == [6.0, 6.0]
    assert (example.tolist(), images.tolist()) == ([0.0, 0.0], [5.0, 5.0])


@pytest.mark.parametrize("inside", [True, False])
def test_a_recording_serves_inside_and_outside_of_inference_mode(inside: bool) -> None:
    # Lightning validates in that mode, and a cell that is derived after the last epoch is scored outside of it.
    with torch.inference_mode(inside):
        recording = Recording(scaled_sum, (torch.zeros(3, 2), torch.ones(())), SoftGraph())
    for mode in (False, True, False):
        with torch.inference_mode(mode), torch.no_grad():
            images, factor = torch.randn(3, 2), torch.randn(())
            assert recording((images, factor))[0].equal(scaled_sum(images, factor)[0])


def test_a_replay_casts_parameters_anew_under_autocast() -> None:
    # Autocast keeps casts of parameters until its block ends; a recording that read a kept one would see no change.
    weight = torch.ones(2, 3, requires_grad=True)

    def product(images: Tensor) -> tuple[Tensor]:
        return (torch.nn.functional.linear(images, weight),)

    run, images = Recorder(HOST, SoftGraph), torch.ones(1, 3)
    with torch.no_grad():
        for factor in range(1, 4):
            with torch.autocast("cpu", torch.bfloat16):
                for _ in range(WARM_UP + 1):
                    assert run("product", product, images)[0].tolist() == [[3.0 * factor] * 2]
            weight += 1


def test_what_a_function_keeps_on_the_host_is_not_seen_by_a_replay() -> None:
    # The rule that makes a recording dangerous, and the proof that the stand-in has teeth.
    factor = 2.0

    def impure(images: Tensor) -> tuple[Tensor]:
        return (images * factor,)

    recording = Recording(impure, (torch.ones(2),), SoftGraph())
    factor = 3.0
    assert recording((torch.ones(2),))[0].tolist() == [2.0, 2.0]


def test_a_function_that_waits_for_the_device_is_refused_with_the_way_out() -> None:
    with pytest.raises(SupernetError, match=r"cannot be recorded.*not permitted.*--model.cuda_graphs false$"):
        Recording(lambda images: (images * images.sum().item(),), (torch.ones(2),), SoftGraph())


def test_a_mistake_in_the_function_stays_that_mistake() -> None:
    def broken(images: Tensor) -> tuple[Tensor]:
        raise TypeError("no such thing")

    with pytest.raises(TypeError, match="no such thing"):
        Recording(broken, (torch.ones(2),), SoftGraph())


def test_a_recorder_runs_the_function_itself_until_it_is_warm() -> None:
    seen: list[int] = []

    def function(images: Tensor) -> tuple[Tensor]:
        seen.append(len(images))
        return (images + 1,)

    run = Recorder(HOST, SoftGraph)
    for step in range(WARM_UP + 5):
        assert run("step", function, torch.full((2,), float(step)))[0].tolist() == [step + 1.0] * 2
    assert seen == [2] * (WARM_UP + 1)  # once more to record it


def test_a_recorder_keeps_one_recording_for_each_name_shape_and_layout() -> None:
    run = Recorder(HOST, SoftGraph)
    square = torch.randn(2, 3, 4, 4)
    for _ in range(WARM_UP + 2):
        for images in (square, square[:1], square.contiguous(memory_format=torch.channels_last)):
            assert run("add", lambda images: (images + 1,), images)[0].equal(images + 1)
            assert run("double", lambda images: (images * 2,), images)[0].equal(images * 2)
    assert len(run.recordings) == 6


def test_without_a_cuda_device_functions_run_as_they_are() -> None:
    run = recorder(HOST, cuda_graphs=True)
    for _ in range(WARM_UP + 2):
        assert run("shape", lambda images: (torch.tensor(images.sum().item()),), torch.ones(3))[0] == 3.0
    assert not run.recordings
