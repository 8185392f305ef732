import pytest

from plait.config import build
from plait.errors import ConfigError
from plait.train.config import TrainConfig


def train(**fields) -> TrainConfig:
    return build(TrainConfig, fields, source="train")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"steps": 1, "epochs": 2},
            "found train.steps and train.epochs; leave one out with train.epochs=null",
        ),
        ({}, "set exactly one of train.steps, train.epochs, train.minutes; found none of them"),
        ({"steps": 1, "minutes": 2}, "found train.steps and train.minutes"),
        ({"steps": 1, "batch_size": 2, "batch_tokens": 64}, "(rows) or train.batch_tokens, not both"),
        ({"minutes": 1, "stop_after": 2}, "train.stop_after needs train.steps or train.epochs"),
        ({"steps": 1, "ema": 0.9, "average_last": 3}, "train.ema or train.average_last, not both"),
        ({"steps": 1, "micro_batch": 0}, "train.micro_batch=0 must be at least 1, or auto"),
        ({"steps": 1, "threads": -1}, "train.threads=-1 must be at least 1, or auto"),
        (
            {"steps": 1, "optimizer": "lion"},
            "optimizer='lion' is not valid: input should be 'adamw', 'adam', ",
        ),
        ({"steps": 1, "lr": 0}, "lr=0 is not valid: input should be greater than 0"),
        ({"steps": 1, "warm_up": 5}, "unknown key 'warm_up'; did you mean 'warmup'?"),
    ],
)
def test_contradictions_are_one_line(fields, message):
    with pytest.raises(ConfigError) as error:
        train(**fields)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.1), ("muon", 0.1), ("adam", 0.0), ("sgd", 0.0)])
def test_decay_is_a_default_only_where_it_is_decoupled(optimizer, decay):
    assert train(steps=1, optimizer=optimizer).weight_decay == decay
    assert train(steps=1, optimizer=optimizer, weight_decay=0.3).weight_decay == 0.3
