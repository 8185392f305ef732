"""A process finds its place among the ranks, whoever started it."""

from __future__ import annotations

import os

import pytest

from plait.errors import ConfigError
from plait.parallel.launch import Place, launched, place_of

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
TORCHRUN = dict(zip(VARIABLES, ("5", "8", "1", "4", "node0", "29500"))) | {"TORCHELASTIC_RESTART_COUNT": "2"}
SLURM = {
    "SLURM_PROCID": "6", "SLURM_NTASKS": "8", "SLURM_LOCALID": "2", "SLURM_JOB_ID": "1234567",
    "SLURM_JOB_NODELIST": "node[3-4]", "SLURM_TASKS_PER_NODE": "4(x2)",
}  # fmt: skip


@pytest.fixture
def environ(monkeypatch):
    """`environ(values)`: these variables of a launcher and no others."""
    for name in list(os.environ):
        if name in VARIABLES or name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)

    def environ(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return environ


@pytest.mark.parametrize(
    ("values", "place"),
    [
        (TORCHRUN, Place(5, 8, 1, 4, 2, "node0", 29500)),
        # Kubernetes: one process in each pod
        (
            {name: TORCHRUN[name] for name in VARIABLES if "LOCAL" not in name},
            Place(5, 8, 0, 1, 0, "node0", 29500),
        ),
        (SLURM | {"MASTER_ADDR": "a", "MASTER_PORT": "77"}, Place(6, 8, 2, 4, 0, "a", 77)),
        (SLURM | {"MASTER_ADDR": "a", "SLURM_STEP_TASKS_PER_NODE": "2,1"}, Place(6, 8, 2, 2, 0, "a", 19567)),
        (SLURM | TORCHRUN, Place(5, 8, 1, 4, 2, "node0", 29500)),
    ],
)
def test_a_place_is_read_from_any_launcher(values, place, environ):
    environ(values)
    assert launched()
    assert place_of() == place


def test_slurm_names_the_first_host(environ, tmp_path, monkeypatch):
    environ(SLURM)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"scontrol cannot name the first host of node\[3-4\]; set MASTER_ADDR"
    ):
        place_of()
    tool = tmp_path / "scontrol"
    tool.write_text('#!/bin/sh\n[ "$3" = "node[3-4]" ] && echo node3 && echo node4\n', encoding="utf-8")
    tool.chmod(0o755)
    assert place_of().address == "node3"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "2"}, "a rank needs RANK in its environment; start it with plait, torchrun or srun"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "a rank needs MASTER_ADDR in its environment"),
        (TORCHRUN | {"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number, not 'two'"),
        ({name: SLURM[name] for name in SLURM if name != "SLURM_LOCALID"}, "a rank needs SLURM_LOCALID"),
    ],
)
def test_a_missing_variable_is_named(values, message, environ):
    environ(values)
    with pytest.raises(ConfigError, match=message):
        place_of()


@pytest.mark.parametrize(
    "values", [{}, {"RANK": "0"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, {"SLURM_NTASKS": "4"}]
)
def test_a_process_alone_is_no_rank(values, environ):
    environ(values)
    assert not launched()
