"""Measuring, remembering and choosing: no rule may depend on the machine the tests run on."""

from __future__ import annotations

import pytest

from plait import device, hardware
from plait.device import Machine, choose, describe, measure, peak, pick_device, product_rate
from plait.errors import ConfigError


def machine(bf16: float = 0.001e12, **changes) -> Machine:
    values = {
        "kind": "cpu",
        "name": "a processor",
        "cores": 4,
        "threads": 2,
        "memory": 2**34,
        "flags": ("avx2",),
        "matmul": {"float32": 0.15e12, "bfloat16": bf16, "float16": 0.001e12, "float64": 0.0},
        "read_bandwidth": 26e9,
        "compiler": True,
        "compiler_reason": "g++ is installed",
    }
    return Machine(**{**values, **changes})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "plait"


def test_the_real_machine_is_measured_once_and_remembered(cache, monkeypatch):
    first = measure(device="cpu")
    assert first.matmul["float32"] > 1e9
    assert first.read_bandwidth > 1e8
    assert first.threads == 1
    assert [path.suffix for path in cache.iterdir()] == [".json"]
    monkeypatch.setattr(device, "_measure", lambda *_: pytest.fail("measured again"))
    assert measure(device="cpu") == first


def test_remeasure_ignores_and_replaces_the_cache(cache, monkeypatch):
    results = iter([machine(name="first"), machine(name="second")])
    monkeypatch.setattr(device, "_measure", lambda *_: next(results))
    assert measure(device="cpu").name == "first"
    assert measure(device="cpu", remeasure=True).name == "second"
    assert measure(device="cpu").name == "second"


def test_a_compiler_that_came_later_is_seen(cache, monkeypatch):
    monkeypatch.setattr(device, "_measure", lambda *_: machine(compiler=False, compiler_reason="none"))
    measure(device="cpu", remeasure=True)
    monkeypatch.setattr("plait.hardware.compiler", lambda kind: (True, "clang++ is installed"))
    found = measure(device="cpu")
    assert (found.compiler, found.compiler_reason) == (True, "clang++ is installed")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b'{"kind": "cpu"}'])
def test_a_damaged_cache_is_measured_again(cache, monkeypatch, damage):
    monkeypatch.setattr(device, "_measure", lambda *_: machine())
    measure(device="cpu")
    path = next(cache.iterdir())
    path.write_bytes(damage)
    assert measure(device="cpu") == machine()
    assert path.read_bytes() != damage


def test_another_thread_setting_is_another_measurement(cache, monkeypatch):
    monkeypatch.setattr(device, "_measure", lambda kind, key: machine(threads=key["threads"]))
    assert measure(device="cpu").threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert measure(device="cpu").threads == 3
    assert len(list(cache.iterdir())) == 2


def test_an_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "plait").write_text("a file where the folder should be", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(device, "_measure", lambda *_: machine())
    assert measure(device="cpu") == machine()


class Clock:
    """Time that only passes when a product of the given speed runs."""

    def __init__(self, flops: float) -> None:
        self.now, self.flops, self.calls = 0.0, flops, []

    def __call__(self) -> float:
        return self.now

    def product(self, rows: int) -> None:
        self.calls.append(rows)
        self.now += rows * 1e6 / self.flops


def test_emulation_is_recognized_before_it_is_waited_for():
    slow = Clock(flops=1e8)  # 4 rows take 0.04 s, 64 rows would take 0.64 s
    assert product_rate(slow.product, 1e6, (4, 64, 512), clock=slow) == pytest.approx(1e8)
    assert set(slow.calls) == {4}
    assert slow.now < 0.3


def test_fast_products_are_repeated_at_the_largest_size_within_the_budget():
    fast = Clock(flops=1e11)
    assert product_rate(fast.product, 1e6, (4, 64, 512), clock=fast) == pytest.approx(1e11)
    assert fast.calls[:12] == [4] * 6 + [64] * 6
    assert fast.calls.count(512) > 3
    assert fast.now < 2 * device.BUDGET


def test_a_product_that_was_interrupted_once_does_not_pass_for_slow():
    busy = Clock(flops=1e11)

    def product(rows: int) -> None:
        busy.product(rows)
        if len(busy.calls) == 2:
            busy.now += 0.5  # another program had the processor

    assert product_rate(product, 1e6, (4, 64, 512), clock=busy) == pytest.approx(1e11)
    assert 512 in busy.calls


@pytest.mark.parametrize(
    ("bf16", "expected"),
    [
        (0.001e12, "float32"),
        (0.15e12, "float32"),
        (0.22e12, "float32"),
        (0.23e12, "bfloat16"),
        (2e12, "bfloat16"),
    ],
)
def test_half_precision_only_where_it_is_measured_to_pay(bf16, expected):
    choices = choose(machine(bf16), parameters=10_000_000, predicted_seconds=10)
    assert choices.dtype == expected
    assert "times the speed of float32 here" in choices.reasons["dtype"]


def test_tiny_models_stay_in_float32_everywhere():
    choices = choose(machine(2e12), parameters=500_000)
    assert choices.dtype == "float32"
    assert "fewer than 1,000,000 parameters" in choices.reasons["dtype"]


def test_what_was_asked_for_is_kept_with_a_warning_reason():
    choices = choose(machine(), dtype="bfloat16", compile=False, predicted_seconds=1e6)
    assert (choices.dtype, choices.compile) == ("bfloat16", False)
    assert (
        choices.reasons["dtype"]
        == "asked for; bfloat16 products run at 0.0067 times the speed of float32 here"
    )


@pytest.mark.parametrize(
    ("present", "seconds", "expected", "reason"),
    [
        (True, 3600, True, "1h00m predicted, more than 5m00s"),
        (True, 240, False, "4m00s predicted, not more than 5m00s"),
        (True, None, False, "only for training predicted to take more than 5m00s"),
        (False, 3600, False, "no C++ compiler"),
    ],
)
def test_compile_by_rule(present, seconds, expected, reason):
    here = machine(compiler=present, compiler_reason="no C++ compiler" if not present else "g++ is installed")
    choices = choose(here, predicted_seconds=seconds)
    assert (choices.compile, choices.reasons["compile"]) == (expected, reason)


def test_threads_say_where_they_come_from(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert choose(machine()).reasons["threads"] == "OMP_NUM_THREADS is set"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "physical core among the 4 available" in choose(machine()).reasons["threads"]
    assert 1 <= hardware.threads() <= len(hardware.processors())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: choose(machine(), dtype="bfloat"),
            r"dtype='bfloat' is not one of auto, .*did you mean 'bfloat16'",
        ),
        (
            lambda: choose(machine(), dtype="float64"),
            "dtype='float64' does not work on cpu; use float32, bfloat16",
        ),
        (lambda: choose(machine(), compile="yes"), "compile='yes' is not one of auto, true, false"),
        (
            lambda: choose(
                machine(compiler=False, compiler_reason="no C++ compiler was found"), compile=True
            ),
            "compile=true cannot work: no C\\+\\+ compiler was found; install one, or set compile=false",
        ),
        (lambda: peak(machine(), "int8"), "dtype='int8' does not work on cpu"),
        (lambda: pick_device("gpu"), "device='gpu' is not one of auto, cpu, cuda, cuda:N, mps"),
        (lambda: pick_device("cpu:1"), "device='cpu:1' is not one of"),
    ],
)
def test_errors_name_rule_value_and_remedy(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_absent_devices_are_refused_by_name(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    for name in ("cuda", "cuda:1", "mps"):
        with pytest.raises(ConfigError, match=f"device='{name}' is not available: .*; use cpu"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto") == "cuda"
    with pytest.raises(ConfigError, match=r"device='cuda:1' does not exist: this machine has 1 GPU"):
        pick_device("cuda:1")


def test_compiler_is_absent_for_a_reason(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    present, reason = hardware.compiler("cpu")
    assert not present
    assert reason.startswith("no C++ compiler was found")


def test_describe_shows_measurements_and_reasons():
    rows = dict(describe(machine()))
    assert rows["float32 products"] == "0.150 TFLOP/s"
    assert rows["float64 products"] == "not possible"
    assert rows["memory"] == "16.0 GiB, read at 26.0 GB/s"
    assert rows["chosen dtype"].startswith("float32: bfloat16 products run at")
    assert rows["chosen compile"].startswith("no: only for training")
