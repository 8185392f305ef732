from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from plait.nn import loss as loss_module
from plait.nn.loss import IGNORE, LossSum, consistent_cross_entropy, cross_entropy, kl_divergence


def logits_and_targets(rows: int = 3, time: int = 5, vocab: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = 3 * torch.randn(rows, time, vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (rows, time), generator=generator)
    targets[0, :3] = targets[-1, 4] = IGNORE
    return logits, targets


def test_it_is_the_summed_negative_log_likelihood():
    logits, targets = logits_and_targets()
    loss = cross_entropy(logits, targets)
    picked = [
        -logits[r, t].softmax(-1)[targets[r, t]].log()
        for r in range(3)
        for t in range(5)
        if targets[r, t] >= 0
    ]
    torch.testing.assert_close(loss.total, torch.stack(picked).sum())
    assert int(loss.tokens) == len(picked) == 11
    assert loss.nll == loss.total


def test_accuracy_counts_the_most_probable_token_where_there_is_a_target():
    logits, targets = logits_and_targets()
    logits[1] = F.one_hot(targets[1], 11) * 100.0
    logits[0, 3:] = F.one_hot(targets[0, 3:], 11) * -100.0
    logits[2] = -100.0 * F.one_hot(targets[2].clamp(min=0), 11)
    assert int(cross_entropy(logits, targets).correct) == 5


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_agrees_with_torch_and_leaves_the_reported_loss_plain(smoothing):
    logits, targets = logits_and_targets()
    loss = cross_entropy(logits, targets, label_smoothing=smoothing)
    theirs = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(loss.total, theirs)
    torch.testing.assert_close(loss.nll, cross_entropy(logits, targets).nll)


def test_z_loss_adds_the_square_of_the_log_normalizer():
    logits, targets = logits_and_targets()
    loss = cross_entropy(logits, targets, z_loss=0.01)
    squares = (logits.exp().sum(-1).log() ** 2)[targets != IGNORE].sum()
    torch.testing.assert_close(loss.total, loss.nll + 0.01 * squares)


def test_narrow_logits_are_summed_in_float32():
    logits, targets = logits_and_targets()
    narrow = logits.bfloat16()
    loss = cross_entropy(narrow, targets, z_loss=0.01)
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.nll, cross_entropy(narrow.float(), targets).nll)
    divergence = kl_divergence(narrow, narrow.flip(-1), targets)
    torch.testing.assert_close(divergence, kl_divergence(narrow.float(), narrow.float().flip(-1), targets))


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from([0.0, 0.2]))
def test_sums_do_not_depend_on_how_rows_are_batched(sizes, smoothing):
    logits, targets = logits_and_targets(sum(sizes))
    whole = cross_entropy(logits, targets, label_smoothing=smoothing, z_loss=0.01)
    parts = LossSum(torch.zeros(()), torch.zeros(()), torch.zeros(()), 0)
    for some_logits, some_targets in zip(logits.split(sizes), targets.split(sizes)):
        parts += cross_entropy(some_logits, some_targets, label_smoothing=smoothing, z_loss=0.01)
    for name in ("total", "nll", "correct", "tokens"):
        assert float(getattr(parts, name)) == pytest.approx(float(getattr(whole, name)), rel=1e-12)


def test_positions_without_target_have_no_gradient():
    logits, targets = logits_and_targets()
    for options in ({}, {"label_smoothing": 0.1, "z_loss": 0.1}):
        leaf = logits.clone().requires_grad_()
        cross_entropy(leaf, targets, **options).total.backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad.abs().sum(-1) == 0, targets == IGNORE)


def test_a_batch_without_targets_is_zero_and_not_nan():
    logits, targets = logits_and_targets()
    loss = cross_entropy(logits, torch.full_like(targets, IGNORE))
    assert (float(loss.total), int(loss.correct), int(loss.tokens)) == (0, 0, 0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_divergence_agrees_with_torch(temperature):
    logits, targets = logits_and_targets()
    teacher = logits.flip(-1)
    keep = targets != IGNORE
    expected = temperature**2 * F.kl_div(
        (logits[keep] / temperature).log_softmax(-1),
        (teacher[keep] / temperature).log_softmax(-1),
        reduction="sum",
        log_target=True,
    )
    torch.testing.assert_close(kl_divergence(logits, teacher, targets, temperature=temperature), expected)
    assert kl_divergence(teacher, teacher, targets).item() == pytest.approx(0)


@pytest.mark.parametrize("numbers", [1, 25, 60, 1 << 18])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"label_smoothing": 0.2, "z_loss": 0.03}])
def test_values_and_gradients_are_torchs_however_few_rows_are_worked_on_at_once(
    monkeypatch, numbers, options
):
    monkeypatch.setattr(loss_module, "CPU_NUMBERS", numbers)
    logits, targets = logits_and_targets()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = cross_entropy(ours, targets, **options)
    smoothing, z_loss = options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)
    expected = F.cross_entropy(
        theirs.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=smoothing
    )
    expected = expected + z_loss * theirs.logsumexp(-1)[targets != IGNORE].square().sum()
    torch.testing.assert_close(loss.total, expected, rtol=1e-12, atol=1e-12)
    (0.37 * loss.total).backward()
    (0.37 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("numbers", [30, 1 << 18])
def test_the_gradient_of_narrow_logits_is_the_rounded_gradient_of_wide_ones(monkeypatch, numbers):
    monkeypatch.setattr(loss_module, "CPU_NUMBERS", numbers)
    logits, targets = logits_and_targets()
    narrow = logits.bfloat16().requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    for leaf in (narrow, wide):
        cross_entropy(leaf, targets, label_smoothing=0.1, z_loss=0.01).total.backward()
    assert narrow.grad is not None
    assert narrow.grad.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.grad, wide.grad.bfloat16(), rtol=0, atol=0)


def test_without_targets_the_gradient_is_zero():
    logits, targets = logits_and_targets()
    leaf = logits.requires_grad_()
    cross_entropy(leaf, torch.full_like(targets, IGNORE), label_smoothing=0.1, z_loss=0.1).total.backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()


class Largest(TorchDispatchMode):
    """The most numbers that any float32 tensor made meanwhile holds in memory of its own."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple) else (made,):
            if isinstance(each, torch.Tensor) and each.dtype == torch.float32 and not each._is_view():
                self.numbers = max(self.numbers, each.numel())
        return made


@pytest.mark.parametrize("of", [cross_entropy, partial(consistent_cross_entropy, weight=3.0)])
def test_no_wide_copy_of_all_logits_is_made(of, monkeypatch):
    monkeypatch.setattr(loss_module, "CPU_NUMBERS", 1 << 10)
    logits = torch.randn(64, 256).bfloat16().requires_grad_()
    with Largest() as seen:
        of(logits, torch.arange(32).repeat(2), label_smoothing=0.1, z_loss=0.01).total.backward()
    assert seen.numbers == 1 << 10


@pytest.mark.parametrize("chunk", [1, 1 << 18])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.01)])
def test_consistency_is_cross_entropy_and_both_divergences_and_so_is_its_gradient(
    chunk, smoothing, z_loss, monkeypatch
):
    monkeypatch.setattr(loss_module, "CPU_NUMBERS", chunk)
    one, targets = logits_and_targets()
    logits, targets = torch.cat((one, one.flip(-1) * 1.5)).requires_grad_(), torch.cat((targets, targets))
    smooth = {"label_smoothing": smoothing, "z_loss": z_loss}
    found = consistent_cross_entropy(logits, targets, weight=3.0, **smooth)
    first, second = logits.chunk(2)
    there, back = kl_divergence(first, second, targets[:3]), kl_divergence(second, first, targets[:3])
    plain = cross_entropy(logits, targets, **smooth)
    wanted = plain.total + 1.5 * (there + back)
    torch.testing.assert_close(found.total, wanted)
    assert (int(found.correct), int(found.tokens)) == (int(plain.correct), int(plain.tokens))
    torch.testing.assert_close(found.nll, plain.nll)
    gradients = [torch.autograd.grad(2 * each, logits)[0] for each in (found.total, wanted)]
    torch.testing.assert_close(*gradients)


def test_halves_that_agree_cost_no_more_than_cross_entropy():
    logits, targets = (torch.cat((each, each)) for each in logits_and_targets())
    found = consistent_cross_entropy(logits, targets, weight=3.0).total
    torch.testing.assert_close(found, cross_entropy(logits, targets).total)


def test_consistency_of_narrow_logits_is_summed_in_float32():
    one, targets = logits_and_targets()
    logits, targets = torch.cat((one, one.flip(-1) * 1.5)), torch.cat((targets, targets))
    narrow = logits.bfloat16().requires_grad_()
    found = consistent_cross_entropy(narrow, targets, weight=3.0).total
    assert found.dtype == torch.float32
    wanted = consistent_cross_entropy(logits, targets, weight=3.0).total
    torch.testing.assert_close(found.double(), wanted, rtol=2e-2, atol=1e-2)
    found.backward()
    assert narrow.grad is not None
    assert narrow.grad.dtype == torch.bfloat16
