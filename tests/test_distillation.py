"""The alpha-divergence against the library's KL divergence, against its closed form, and against autograd of that."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from supernet.distillation import adaptive_alpha_divergence, alpha_divergence

ALPHAS = [-1.0, -0.5, 0.0, 0.5, 1.0, 2.0]


def pair(seed: int, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = scale * torch.randn(2, 7, 5, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


def closed_form(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    q, p = student.softmax(dim=1), teacher.softmax(dim=1)
    if alpha == 0:
        return (q * (q / p).log()).sum(dim=1)
    if alpha == 1:
        return (p * (p / q).log()).sum(dim=1)
    return (q * ((p / q) ** alpha - 1)).sum(dim=1) / (alpha * (alpha - 1))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_value_and_gradient_are_those_of_the_closed_form_where_nothing_is_clipped(alpha: float) -> None:
    student, teacher = pair(0)
    weights = torch.randn(7, dtype=torch.float64)
    found, expected = alpha_divergence(student, teacher, alpha), closed_form(student, teacher, alpha)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad((value * weights).sum(), student)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


def test_at_one_and_at_zero_it_is_the_divergence_of_kullback_and_leibler() -> None:
    student, teacher = pair(1)
    log_q, log_p = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
    forward = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)  # KL(p || q)
    reverse = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)  # KL(q || p)
    torch.testing.assert_close(alpha_divergence(student, teacher, 1), forward, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alpha_divergence(student, teacher, 0), reverse, rtol=1e-12, atol=1e-12)
    # They are limits: the general formula comes close to them.
    for alpha, limit in ((1 + 1e-6, forward), (1e-6, reverse)):
        torch.testing.assert_close(alpha_divergence(student, teacher, alpha), limit, rtol=1e-4, atol=1e-5)


def test_at_minus_one_it_is_half_of_pearsons_chi_square() -> None:
    student, teacher = pair(2)
    q, p = student.softmax(dim=1), teacher.softmax(dim=1)
    expected = ((q - p).square() / p).sum(dim=1) / 2
    torch.testing.assert_close(alpha_divergence(student, teacher, -1), expected, rtol=1e-10, atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.floats(0, 20), st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), st.floats(2, 100))
def test_it_is_never_below_zero_even_where_it_is_clipped(seed: int, scale: float, alpha: float, clip: float) -> None:
    student, teacher = pair(seed, scale)
    found = alpha_divergence(student, teacher, alpha, clip)
    assert found.shape == (7,)
    assert (found >= -1e-12).all()
    assert (adaptive_alpha_divergence(student, teacher) >= -1e-12).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_equal_answers_have_the_divergence_zero_and_no_gradient(alpha: float) -> None:
    student, _ = pair(3)
    found = alpha_divergence(student, student, alpha, clip=5.0)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-14)
    torch.testing.assert_close(gradient, torch.zeros_like(student), rtol=0, atol=1e-14)


def test_the_adaptive_divergence_is_the_larger_one_for_each_image_with_its_gradient() -> None:
    student, teacher = pair(4, scale=0.7)
    sides = [closed_form(student, teacher, alpha) for alpha in (-1, 1)]
    larger = torch.stack([side.detach() for side in sides]).argmax(dim=0)
    assert set(larger.tolist()) == {0, 1}
    found = adaptive_alpha_divergence(student, teacher, clip=1e9)
    torch.testing.assert_close(found, torch.where(larger == 0, *sides), rtol=1e-10, atol=1e-12)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    slopes = [torch.autograd.grad(side.sum(), student)[0] for side in sides]
    torch.testing.assert_close(gradient, torch.where((larger == 0)[:, None], *slopes), rtol=1e-9, atol=1e-11)


def test_importance_weights_are_clipped_class_by_class() -> None:
    # Two classes, q = (1 - e, e) against p = (e, 1 - e): the weight (p / q)**-1 of the first is (1 - e) / e = 99.
    p = torch.tensor([[0.01, 0.99]], dtype=torch.float64)
    student = p.flip(1).log().requires_grad_()
    found = alpha_divergence(student, p.log(), -1, clip=5.0)
    assert found.item() == pytest.approx((0.99 * (5 - 1) + 0.01 * (1 / 99 - 1)) / 2)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    # -sum(q w grad(log q)) with w = clipped / alpha = -(5, 1/99): the Jacobian of log q is identity less q.
    weights = torch.tensor([5.0, 1 / 99], dtype=torch.float64) * p.flip(1)[0]
    torch.testing.assert_close(gradient[0], weights - weights.sum() * p.flip(1)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_that_are_worlds_apart_have_finite_gradients(dtype: torch.dtype) -> None:
    student = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], dtype=dtype, requires_grad=True)
    loss = adaptive_alpha_divergence(student, student.detach().flip(1)).mean()
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_the_teacher_learns_nothing() -> None:
    student, teacher = pair(5)
    teacher.requires_grad_()
    adaptive_alpha_divergence(student, teacher).sum().backward()
    assert teacher.grad is None
