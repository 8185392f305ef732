import math
from dataclasses import replace

import pytest
import torch

from plait.data.batch import StepBatch
from plait.errors import TrainingError
from plait.nn.loss import LossSum
from plait.parallel.placed import Placed
from plait.train.config import TrainConfig
from plait.train.loop import GROW_AFTER, TrainState, check_loss, train
from plait.train.objectives import next_token, objective_of
from plait.train.optim import Optimizer


class Steps:
    """A loader of made-up steps."""

    def __init__(self, make_step, micro_batch: int = 6) -> None:
        self.make_step, self.micro_batch = make_step, micro_batch

    def batch(self, step: int) -> StepBatch:
        return self.make_step(step, micro_batch=self.micro_batch)


def run(
    placed: Placed, loader, state: TrainState | None = None, *, objective=next_token, to: int = 4, **fields
):
    config = TrainConfig(**({"steps": 10, "lr": 0.02} | fields))
    optim = Optimizer(placed.named_parameters(), config)
    state = state or TrainState()
    return train(placed, loader, objective, optim, config, state, total_steps=to, seed=7)


def weights(placed: Placed) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in placed.state_dict().items()}


def gradients(placed: Placed) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in placed.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "fields", [{}, {"experts": 4, "balance_loss": 0.5}, {"position": "alibi", "norm": "layer"}]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_do_not_depend_on_the_micro_batch(make_placed, make_step, fields, smoothing):
    objective = objective_of(TrainConfig(steps=1, label_smoothing=smoothing, z_loss=0.01))
    results = []
    for micro_batch in (6, 3, 2, 1):
        placed = make_placed(**fields)
        loss = placed.forward_backward(make_step(1, micro_batch=micro_batch), objective)
        results.append((loss, placed.aux_loss, gradients(placed)))
    (whole, whole_aux, whole_gradients), *others = results
    for loss, aux, each in others:
        torch.testing.assert_close(loss.total, whole.total)
        assert (int(loss.tokens), int(loss.correct)) == (int(whole.tokens), int(whole.correct))
        assert aux == pytest.approx(whole_aux)
        torch.testing.assert_close(each, whole_gradients)
    assert (whole_aux > 0) == ("experts" in fields)


@pytest.mark.parametrize("fields", [{}, {"experts": 4, "balance_loss": 0.5}])
def test_r_drop_without_dropout_is_plain_training(make_placed, make_step, fields):
    plain, doubled = make_placed(**fields), make_placed(**fields)
    (one,) = run(plain, Steps(make_step, 2), to=1)
    config = TrainConfig(steps=1, r_drop=5)
    (other,) = run(doubled, Steps(make_step, 2), objective=objective_of(config), to=1, r_drop=5)
    assert other.loss == pytest.approx(one.loss)
    assert other.grad_norm == pytest.approx(one.grad_norm)
    assert other.aux_loss == pytest.approx(one.aux_loss)
    assert (other.tokens, other.accuracy) == (2 * one.tokens, pytest.approx(one.accuracy))
    torch.testing.assert_close(weights(doubled), weights(plain))


def test_r_drop_makes_two_passes_under_dropout_agree(make_placed, make_step):
    def divergence(placed: Placed) -> float:
        step = make_step(0).twice()
        with_it, without = (
            objective_of(TrainConfig(steps=1, r_drop=weight, label_smoothing=0.1)) for weight in (1.0, 1e-12)
        )
        losses = []
        for objective in (with_it, without):
            torch.manual_seed(1)
            losses.append(float(placed.forward_backward(step, objective).total.detach()))
        return losses[0] - losses[1]

    agreeing, careless = make_placed(dropout=0.3), make_placed(dropout=0.3)
    before = divergence(agreeing)
    for placed, weight in ((agreeing, 20.0), (careless, 0.0)):
        objective = objective_of(TrainConfig(steps=1, r_drop=weight))
        list(run(placed, Steps(make_step), objective=objective, to=60, steps=60, r_drop=weight))
    assert before > 0
    assert divergence(agreeing) < 0.5 * divergence(careless)


def test_gradients_are_those_of_the_mean_over_all_target_tokens(make_placed, make_step):
    placed, by_hand = make_placed(), make_placed()
    step = make_step(0, micro_batch=2)
    placed.forward_backward(step, next_token)
    logits = [by_hand.model(micro.tokens) for micro in step.microbatches]
    targets = torch.cat([micro.targets for micro in step.microbatches])
    torch.nn.functional.cross_entropy(torch.cat(logits).flatten(0, 1), targets.flatten()).backward()
    torch.testing.assert_close(gradients(placed), gradients(by_hand))


def test_clipping_returns_the_norm_before_and_bounds_the_norm_after(make_placed, make_step):
    placed = make_placed(tied=True)
    placed.forward_backward(make_step(), next_token)
    before = torch.cat([grad.flatten() for grad in gradients(placed).values()]).norm()
    torch.testing.assert_close(placed.clip(0.0), before)  # 0 leaves them
    torch.testing.assert_close(placed.clip(0.01), before)
    after = torch.cat([grad.flatten() for grad in gradients(placed).values()]).norm()
    assert after.item() == pytest.approx(0.01, rel=1e-3)


def test_scaled_gradients_are_unscaled_before_clipping(make_placed, make_step):
    plain, scaled = make_placed(experts=4), make_placed(experts=4)
    plain.forward_backward(make_step(), next_token)
    scaled.forward_backward(make_step(), next_token, 1024.0)
    torch.testing.assert_close(scaled.clip(0.5, 1024.0), plain.clip(0.5))
    torch.testing.assert_close(gradients(scaled), gradients(plain))


def test_steps_report_what_happened(make_placed, make_step):
    placed, state = make_placed(experts=4), TrainState()
    steps = list(run(placed, Steps(make_step), state, schedule="linear", warmup=0, min_lr=0.0))
    assert [step.number for step in steps] == [1, 2, 3, 4]
    assert [step.step_tokens for step in steps] == [33, 27, 33, 27]
    assert [step.tokens for step in steps] == [33, 60, 93, 120]
    assert [step.lr for step in steps] == pytest.approx([0.02, 0.015, 0.01, 0.005])
    assert steps[0].loss == pytest.approx(math.log(31), rel=0.05)
    assert all(0 <= step.accuracy <= 1 and step.grad_norm > 0 and step.tokens_per_s > 0 for step in steps)
    # two layers, nearly balanced; it weighs all 48 positions, and is told per target token
    assert steps[0].aux_loss == pytest.approx(2 * 0.01 * 48 / 33, rel=0.1)
    assert (state.step, state.tokens) == (4, 120)


def test_whatever_happens_between_steps_leaves_the_run_as_it_was(make_placed, make_step):
    calm, busy = make_placed(dropout=0.2), make_placed(dropout=0.2)
    for _ in run(calm, Steps(make_step)):
        pass
    for _ in run(busy, Steps(make_step)):
        torch.rand(13)
        busy.evaluate(make_step(9).microbatches[0], next_token)
    for name, tensor in weights(calm).items():
        assert torch.equal(tensor, weights(busy)[name])


def test_the_clock_ends_a_run_of_minutes(make_placed, make_step):
    state = TrainState(step=5, seconds=59.9999)
    steps = list(run(make_placed(), Steps(make_step), state, to=None, steps=None, minutes=1))
    assert 1 <= len(steps) < 20
    assert state.seconds >= 60


@pytest.mark.parametrize(
    ("broken", "what"),
    [(math.nan, r"the loss is nan"), (math.inf, r"the loss is inf"), (1e4, r"the loss is 3\.\d+e\+04")],
)
def test_a_broken_loss_stops_before_the_weights_change(make_placed, make_step, broken, what):
    placed, state = make_placed(), TrainState()

    def objective(hidden, head, batch) -> LossSum:
        loss = next_token(hidden, head, batch)
        factor = broken if state.step == 2 else 1.0
        return replace(loss, total=loss.total * factor, nll=loss.nll * factor)

    loop = run(placed, Steps(make_step, micro_batch=2), state, objective=objective)
    next(loop), next(loop)
    before = weights(placed)
    with pytest.raises(TrainingError, match=what) as error:
        next(loop)
    message = str(error.value)
    assert message.startswith("step 3: ")
    assert "its batch held book.txt#0, book.txt#2, book.txt#4; lower train.lr" in message
    assert state.step == 2
    for name, tensor in weights(placed).items():
        assert torch.equal(tensor, before[name])


def test_a_loss_of_few_tokens_may_lie_further_off(make_step):
    state, batch = TrainState(), make_step(0)
    check_loss(5.0, 1.0, state, batch, tokens=1000, untrained=6.0)
    check_loss(20.0, 1.0, state, batch, tokens=16, untrained=6.0)
    for loss, tokens in [(20.0, 1000), (30.0, 16)]:
        with pytest.raises(TrainingError, match=f"the loss is {loss:.0f} "):
            check_loss(loss, 1.0, state, batch, tokens=tokens, untrained=6.0)


def test_an_infinite_gradient_under_a_finite_loss_stops_too(make_placed, make_step):
    def objective(hidden, head, batch) -> LossSum:
        loss = next_token(hidden, head, batch)
        return replace(loss, total=loss.total * math.inf)

    with pytest.raises(TrainingError, match=r"step 1: the loss is 3\.\d+ .* the gradient norm nan"):
        next(run(make_placed(), Steps(make_step), objective=objective))


def test_a_trained_model_may_meet_a_batch_far_worse_than_its_first(make_placed, make_step):
    state = TrainState()

    def objective(hidden, head, batch) -> LossSum:
        loss = next_token(hidden, head, batch)
        return replace(loss, nll=loss.nll * (0.01 if state.step == 0 else 1.0))

    steps = list(run(make_placed(), Steps(make_step), state, objective=objective, to=2))
    assert steps[1].loss > 50 * steps[0].loss


def test_many_documents_are_counted_and_not_listed(make_placed, make_step):
    step = make_step()
    ids = [f"a.txt#{n}" for n in range(9)]
    crowded = StepBatch([replace(step.microbatches[0], read_ids=lambda: ids)], step.target_tokens)
    loader = Steps(lambda *_, **__: crowded)

    def objective(hidden, head, batch) -> LossSum:
        loss = next_token(hidden, head, batch)
        return replace(loss, nll=loss.nll * math.nan)

    with pytest.raises(TrainingError, match=r"held a.txt#0, .*a.txt#4 and 4 more; lower"):
        next(run(make_placed(), loader, objective=objective))


def overflowing_above(limit: float, state: TrainState):
    """Gradients overflow at loss scales above `limit`, as float16's do."""

    def objective(hidden, head, batch) -> LossSum:
        loss = next_token(hidden, head, batch)
        return replace(loss, total=loss.total * (math.inf if state.loss_scale > limit else 1.0))

    return objective


def test_an_overflow_halves_the_scale_and_skips_the_update(make_placed, make_step):
    placed, state = make_placed(), TrainState(loss_scale=2.0**6)
    before = weights(placed)
    loop = run(placed, Steps(make_step), state, objective=overflowing_above(16.0, state))
    scales = []
    for _ in range(2):
        next(loop)
        scales.append(state.loss_scale)
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(placed).items())
    step = next(loop)
    assert [*scales, state.loss_scale] == [32.0, 16.0, 16.0]
    assert step.grad_norm < 10
    assert not torch.equal(weights(placed)["norm.weight"], before["norm.weight"])


def test_the_scale_grows_after_many_good_steps(make_placed, make_step):
    state = TrainState(loss_scale=8.0, good_steps=GROW_AFTER - 2)
    loop = run(make_placed(), Steps(make_step), state)
    next(loop)
    assert (state.loss_scale, state.good_steps) == (8.0, GROW_AFTER - 1)
    next(loop)
    assert (state.loss_scale, state.good_steps) == (16.0, 0)


def test_a_nan_loss_is_no_overflow(make_placed, make_step):
    def objective(hidden, head, batch) -> LossSum:
        loss = next_token(hidden, head, batch)
        return replace(loss, total=loss.total * math.nan, nll=loss.nll * math.nan)

    with pytest.raises(TrainingError, match="the loss is nan"):
        next(run(make_placed(), Steps(make_step), TrainState(loss_scale=64.0), objective=objective))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_every_dtype_trains_and_keeps_wide_weights(make_placed, make_step, dtype):
    placed = make_placed(dtype, dropout=0.1)
    state = TrainState(loss_scale=2.0**10 if dtype == "float16" else 1.0)
    steps = list(run(placed, Steps(make_step), state, to=3))
    assert all(math.isfinite(step.loss) and math.isfinite(step.grad_norm) for step in steps)
    kinds = {tensor.dtype for tensor in weights(placed).values()}
    assert kinds == {torch.float64 if dtype == "float64" else torch.float32}
