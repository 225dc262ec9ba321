"""Soft labels against KL over the whole vocabulary, and on disk against in memory."""

import pytest
import torch
from torch.nn import functional as F

from unlearn.strategies.soft_labels import Direction, SoftLabel, SoftLabels


def predictions(seed: int, n: int = 5, vocabulary: int = 11, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(n, vocabulary, generator=generator)).log_softmax(-1)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_with_every_token_kept_it_is_the_divergence(direction: Direction) -> None:
    teacher, student = predictions(0), predictions(1)
    p, q = (teacher, student) if direction == "forward" else (student, teacher)
    wanted = F.kl_div(q, p, reduction="none", log_target=True).sum(-1)
    for top_k in (11, 99):
        found = SoftLabel.of(teacher, top_k).divergence(student, direction)
        assert torch.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_the_tail_is_one_outcome(direction: Direction) -> None:
    teacher, student = predictions(0), predictions(1)

    def coarse(row: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        p = row.exp()
        return torch.cat([p[kept], (1 - p[kept].sum())[None]])

    label = SoftLabel.of(teacher, 3)
    for row in range(len(teacher)):
        p, q = (coarse(side[row], label.ids[row]) for side in (teacher, student))
        if direction == "reverse":
            p, q = q, p
        wanted = (p * (p / q).log()).sum()
        assert label.divergence(student, direction)[row] == pytest.approx(float(wanted), abs=1e-5)


def test_it_is_nothing_where_student_and_teacher_agree_and_never_more_than_the_whole() -> None:
    teacher, student = predictions(0), predictions(1)
    label = SoftLabel.of(teacher, 4)
    assert torch.allclose(label.divergence(teacher), torch.zeros(5), atol=1e-6)
    whole = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    assert (label.divergence(student) <= whole + 1e-6).all()


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_sure_and_impossible_outcomes_give_finite_losses_and_gradients(
    direction: Direction,
) -> None:
    sure = torch.tensor([[0.0, -200.0, -torch.inf, -torch.inf]])
    student = torch.tensor([[-300.0, 0.0, 2.0, -200.0]], requires_grad=True)
    for top_k in (2, 4):
        loss = SoftLabel.of(sure, top_k).divergence(student.log_softmax(-1), direction).sum()
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_the_gradient_pulls_the_student_to_the_teacher() -> None:
    teacher = predictions(0).double()
    logits = predictions(1).double().requires_grad_()
    label = SoftLabel(*SoftLabel.of(teacher, 11))._replace(logprobs=teacher.sort(-1, True).values)
    loss = label.divergence(logits.log_softmax(-1)).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(gradient, logits.softmax(-1) - teacher.exp(), atol=1e-6)


def test_on_disk_they_read_as_in_memory_and_the_file_goes_with_them() -> None:
    pieces = [predictions(seed, n=seed + 1) for seed in range(4)]
    inside = SoftLabels.collect(pieces, top_k=5, memory=2**20)
    outside = SoftLabels.collect(pieces, top_k=5, memory=0)
    assert inside.rows.folder is None and outside.rows.folder is not None
    for chosen in ([0], [3, 1], [2, 2, 0]):
        for a, b in zip(inside.at(chosen), outside.at(chosen), strict=True):
            assert torch.equal(a, b)
    label = inside.at([3, 1])
    wanted = SoftLabel.of(torch.cat([pieces[3], pieces[1]]), 5)
    assert torch.equal(label.ids, wanted.ids) and torch.equal(label.logprobs, wanted.logprobs)
    folder = outside.rows.folder
    assert folder.is_dir()
    del outside
    assert not folder.exists()
