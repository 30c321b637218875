import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lift.packing.losses import bucket_divergence, cross_entropy, top_k_log_probabilities


def draw(seed: int, rows: int = 5, vocabulary: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher = 2 * torch.randn(rows, vocabulary, generator=generator)
    return teacher, 2 * torch.randn(rows, vocabulary, generator=generator)


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_over_the_whole_vocabulary_the_divergence_is_the_exact_one(seed: int) -> None:
    teacher, student = draw(seed)
    log_probabilities, ids = top_k_log_probabilities(teacher, 11)
    found = bucket_divergence(student, log_probabilities, ids)
    p, q = torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)
    exact = F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found, exact, atol=1e-4, rtol=1e-3)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 10))
def test_with_a_bucket_it_is_a_lower_bound_and_zero_for_the_teacher_itself(seed: int, top_k: int) -> None:
    teacher, student = draw(seed)
    log_probabilities, ids = top_k_log_probabilities(teacher, top_k)
    p, q = torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)
    exact = (p.exp() * (p - q)).sum(-1)
    assert (bucket_divergence(student, log_probabilities, ids) <= exact + 1e-4).all()
    assert bucket_divergence(teacher, log_probabilities, ids).max() < 1e-5


def test_following_its_gradient_makes_the_student_the_teacher() -> None:
    teacher, student = draw(3)
    student.requires_grad_(True)
    log_probabilities, ids = top_k_log_probabilities(teacher, 4)
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        bucket_divergence(student, log_probabilities, ids).sum().backward()
        optimizer.step()
    learned = torch.log_softmax(student.detach(), -1).gather(-1, ids)
    torch.testing.assert_close(learned, log_probabilities, atol=0.02, rtol=0.02)


def test_cross_entropy_is_that_of_each_position_in_float32() -> None:
    logits, targets = torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 3])
    expected = -torch.log_softmax(logits.bfloat16().float(), -1)[torch.arange(3), targets]
    torch.testing.assert_close(cross_entropy(logits.bfloat16(), targets), expected)


def test_cross_entropy_has_the_gradient_of_plain_torch_over_more_rows_than_it_holds_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(70, 11, generator=generator), torch.rand(70, generator=generator)
    targets = torch.randint(0, 11, (70,), generator=generator)
    ours, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (cross_entropy(ours, targets) * weights).sum().backward()
    (torch.nn.functional.cross_entropy(plain, targets, reduction="none") * weights).sum().backward()
    assert ours.grad is not None and plain.grad is not None
    torch.testing.assert_close(ours.grad, plain.grad)
