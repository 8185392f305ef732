import pytest
import torch

from plait.train.average import mean_of, update_ema


def test_the_moving_average_follows_its_formula_once_the_start_is_forgotten():
    average = {"w": torch.tensor([1.0, 2.0])}
    update_ema(average, {"w": torch.tensor([3.0, 2.0])}, 0.9, step=1_000_000)
    assert average["w"].tolist() == pytest.approx([1.2, 2.0])


def test_early_steps_weigh_more_so_that_the_random_start_fades():
    average = {"w": torch.tensor([0.0])}
    for step in range(1, 60):
        update_ema(average, {"w": torch.tensor([1.0])}, 0.999, step)
    assert average["w"].item() > 0.9999  # 0.06 at a constant 0.999


def test_the_mean_is_taken_in_double_and_keeps_the_dtype():
    sets = [{"w": torch.full((3,), value)} for value in (1.0, 2.0, 6.0)]
    mean = mean_of(iter(sets))["w"]
    assert torch.equal(mean, torch.full((3,), 3.0))
    assert mean.dtype == torch.float32
    narrow = [{"w": torch.tensor([1.0 + n / 128], dtype=torch.bfloat16)} for n in range(2)]
    assert mean_of(narrow)["w"].dtype == torch.bfloat16
