"""Shares of a job by option and by the variables of launchers."""

from __future__ import annotations

import itertools

import pytest

from fairseq_el.errors import OptionError
from fairseq_el.jobs import Share, parse_share


def array(task, first, last, step=1, **more):
    """The variables of a task of ``sbatch --array``, which also sets SLURM_PROCID."""
    names = {"ID": task, "MIN": first, "MAX": last, "STEP": step, "COUNT": len(range(first, last + 1, step))}
    found = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}
    return {**found, "SLURM_PROCID": "0", **more}


def torchrun(rank, of):
    return {"RANK": str(rank), "WORLD_SIZE": str(of), "LOCAL_RANK": "0"}


def srun(rank, of):
    return {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(of)}


@pytest.mark.parametrize("of", [1, 2, 7, 50])
def test_every_line_is_in_one_share(of):
    shares = [Share(index, of) for index in range(of)]
    assert sorted(itertools.chain(*(share.numbers(40) for share in shares))) == list(range(40))
    assert all([n for n in range(40) if n in share] == list(share.numbers(40)) for share in shares)
    assert max(len(share.numbers(40)) for share in shares) - min(len(share.numbers(40)) for share in shares) <= 1


@pytest.mark.parametrize(("text", "share"), [("0/1", Share()), ("0/8", Share(0, 8)), ("7/8", Share(7, 8))])
def test_by_name(text, share):
    assert parse_share(text, {}) == share


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8/8", "shares of 8 have the numbers 0 to 7; got --shard 8/8"),
        ("1/0", "there must be from 1 to 1,000,000 shares; got --shard 1/0"),
        ("0/1000001", "there must be from 1 to 1,000,000 shares"),
        *(
            (text, "must be i/N, such as 0/8")
            for text in ("", "1", "-1/8", "1/8/9", "a/b", " 1/8", "1.0/8", "\u0661/8")
        ),
        (f"{'9' * 1000}/8", "must be i/N, such as 0/8"),
    ],
)
def test_by_a_name_that_is_none(text, message):
    with pytest.raises(OptionError, match=message):
        parse_share(text, torchrun(0, 2))


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        (torchrun(3, 4), Share(3, 4)),
        (srun(0, 1), Share()),
        (srun(5, 6), Share(5, 6)),
        ({**srun(1, 2), **torchrun(3, 16)}, Share(3, 16)),  # torchrun on each of two nodes
        (array(0, 0, 7), Share(0, 8)),
        (array(8, 1, 8), Share(7, 8)),
        (array(12, 0, 15, 4), Share(3, 4)),
        (array(3, 3, 3), Share()),
        (array(2, 0, 3, **torchrun(1, 2)), Share(5, 8)),
        ({**array(2, 0, 3), **srun(1, 2)}, Share(5, 8)),
    ],
)
def test_by_environment(environment, share):
    assert parse_share("env", environment) == share


def test_all_processes_of_an_array_have_different_shares():
    for inner in (torchrun, srun):
        found = [
            parse_share("env", {**array(task, 1, 9, 2), **inner(rank, 3)})
            for task in range(1, 10, 2)
            for rank in range(3)
        ]
        assert sorted(share.index for share in found) == list(range(15)) and {share.of for share in found} == {15}


def test_without_the_number_of_tasks():
    """Old versions of SLURM set fewer variables."""
    for name in ("SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_STEP"):
        environment = array(4, 1, 8)
        del environment[name]
        assert parse_share("env", environment) == Share(3, 8)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, r"none of them is set\. Name the share: --shard 0/8"),
        ({"SLURM_PROCID": "0"}, "none of them is set"),  # sbatch without srun
        ({"RANK": "0"}, "needs a number in WORLD_SIZE, as the launcher sets it; it is not set"),
        ({"WORLD_SIZE": "2"}, "needs a number in RANK"),
        (torchrun("x", 2), "needs a number in RANK, as the launcher sets it; it is 'x'"),
        (torchrun(2, 2), "shares of 2 have the numbers 0 to 1; got RANK=2 and WORLD_SIZE=2"),
        (torchrun(0, 0), "there must be from 1 to 1,000,000 shares"),
        ({"SLURM_NTASKS": "2"}, "needs a number in SLURM_PROCID"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "needs a number in SLURM_ARRAY_TASK_MIN"),
        (
            {**array(3, 1, 7), "SLURM_ARRAY_TASK_COUNT": "3"},
            "equally far apart, such as 0-7; SLURM_ARRAY_TASK_ID=3 is one of 3",
        ),
        (array(2, 1, 7, 3), "equally far apart"),
    ],
)
def test_an_environment_that_names_none(environment, message):
    with pytest.raises(OptionError, match=message):
        parse_share("env", environment)
