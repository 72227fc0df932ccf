"""Shares of a job: each of N processes decodes every Nth line, and no process needs to know of the others.

A share is named ``i/N``, i from 0 to N - 1, as RANK and SLURM_PROCID count; or ``env``: a job array of SLURM, and in it
torchrun or srun, say which share a process has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Mapping, Optional

from fairseq_el.errors import OptionError, shortened

_MOST = 1_000_000  # shares
_ARRAY = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Share:
    """Every ``of``-th line of the input, beginning with line ``index``; both count from 0."""

    index: int = 0
    of: int = 1

    def __contains__(self, number: int) -> bool:
        return number % self.of == self.index

    def numbers(self, num_lines: int) -> range:
        """The numbers of its lines, in an input of so many."""
        return range(self.index, num_lines, self.of)


def parse_share(text: str, environment: Mapping[str, str]) -> Share:
    """The share that ``--shard`` asks for.

    Args:
        text: ``i/N`` or ``env``.
        environment: ``os.environ``.

    Raises:
        OptionError: it names no share.
    """
    if text == "env":
        return share_of_environment(environment)
    match = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text, re.ASCII)
    if match is None:
        raise OptionError(f"--shard must be i/N, such as 0/8 for the first of eight, or env; got {shortened(text)!r}")
    return _share(int(match[1]), int(match[2]), f"--shard {text}")


def share_of_environment(environment: Mapping[str, str]) -> Share:
    """The share that a launcher gives this process.

    With an array of SLURM, its tasks share the input, and the processes of torchrun or srun share a task's share.

    Raises:
        OptionError: no launcher has set its variables, or they contradict each other.
    """
    outer, inner = _of_array(environment), _of_launcher(environment)
    if outer is None and inner is None:
        raise OptionError(
            "--shard env needs a launcher that sets RANK and WORLD_SIZE (torchrun), SLURM_PROCID and SLURM_NTASKS "
            "(srun), or SLURM_ARRAY_TASK_ID (sbatch --array); none of them is set. Name the share: --shard 0/8"
        )
    outer, inner = outer or Share(), inner or Share()
    return _share(outer.index * inner.of + inner.index, outer.of * inner.of, "--shard env")


def _of_launcher(environment: Mapping[str, str]) -> Optional[Share]:
    """The share by torchrun, whose ranks count all processes of all machines; or else by srun."""
    if "RANK" in environment or "WORLD_SIZE" in environment:
        rank, of = "RANK", "WORLD_SIZE"
    elif "SLURM_NTASKS" in environment:  # sbatch alone sets SLURM_PROCID too
        rank, of = "SLURM_PROCID", "SLURM_NTASKS"
    else:
        return None
    index, count = _number(environment, rank), _number(environment, of)
    return _share(index, count, f"{rank}={index} and {of}={count}")


def _of_array(environment: Mapping[str, str]) -> Optional[Share]:
    """The share of a task in an array whose numbers are equally far apart."""
    if f"{_ARRAY}ID" not in environment:
        return None
    task, first, last = (_number(environment, f"{_ARRAY}{name}") for name in ("ID", "MIN", "MAX"))
    step = _number(environment, f"{_ARRAY}STEP") if f"{_ARRAY}STEP" in environment else 1
    numbers = range(first, last + 1, max(step, 1))
    count = _number(environment, f"{_ARRAY}COUNT") if f"{_ARRAY}COUNT" in environment else len(numbers)
    if task not in numbers or count != len(numbers):
        raise OptionError(
            f"--shard env needs an array of SLURM whose numbers are equally far apart, such as 0-7; {_ARRAY}ID={task} "
            f"is one of {count} from {first} to {last} by {step}. Name the share: --shard 0/{max(count, 1)}"
        )
    return Share(numbers.index(task), count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None or re.fullmatch(r"\d{1,9}", text, re.ASCII) is None:
        got = "is not set" if text is None else f"is {shortened(text)!r}"
        raise OptionError(f"--shard env needs a number in {name}, as the launcher sets it; it {got}")
    return int(text)


def _share(index: int, of: int, given: str) -> Share:
    if not 1 <= of <= _MOST:
        raise OptionError(f"there must be from 1 to {_MOST:,} shares; got {given}")
    if not 0 <= index < of:
        raise OptionError(f"shares of {of} have the numbers 0 to {of - 1}; got {given}")
    return Share(index, of)
