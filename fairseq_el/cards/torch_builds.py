"""The builds of torch on PyPI, the cards that each has kernels for, and the choice among them.

Needs only the standard library: ``scripts/install.sh`` asks it before anything is installed.
"""

from __future__ import annotations

import re
from typing import Dict, Iterable, List, NamedTuple, Sequence, Tuple

from fairseq_el.cards.nvidia_smi import Capability, Card, dotted


class Build(NamedTuple):
    """A torch on PyPI, for Linux on x86-64."""

    version: str
    cuda: str
    kernels: Tuple[str, ...]  # as torch.cuda.get_arch_list() has them
    caveat: str = ""

    @property
    def requirement(self) -> str:
        return f"torch=={self.version}"


class Fairseq(NamedTuple):
    """A release of fairseq, for a range of Python versions, with the builds of torch that work with it."""

    pythons: str
    name: str
    builds: Tuple[Build, ...]  # the first is taken wherever it serves


class Choice(NamedTuple):
    """The torch to install for the cards of a machine."""

    requirement: str  # "torch==2.10.0"
    reason: str  # why it is taken; empty where some card can't be used
    problem: str  # which cards can't be used, why, and what to do; empty where all can


def _kernels(numbers: str) -> Tuple[str, ...]:
    return tuple(f"sm_{number}" for number in numbers.split())


# Read from the wheels: torch/version.py, and the flags in torch/lib. None has PTX, which newer cards could compile.
OLD_FAIRSEQ = Fairseq(
    "3.8 to 3.10",
    "official fairseq 0.12.2",
    (
        Build("1.12.1", "10.2", _kernels("37 50 60 70")),
        Build(
            "1.13.1",
            "11.7",
            _kernels("37 50 60 70 75 80 86"),
            "tasks el_* decode all models, stock fairseq pre-norm models only: prefer Python 3.11 to 3.13",
        ),
    ),
)
NEW_FAIRSEQ = Fairseq(
    "3.11 to 3.13",
    "fairseq-fixed 0.12.3.1",
    (
        Build("2.13.0", "13.0", _kernels("75 80 86 90 100 120")),
        Build("2.10.0", "12.8", _kernels("70 75 80 86 90 100 120")),
        Build("2.7.1", "12.6", _kernels("50 60 70 75 80 86 90")),
    ),
)
OLDEST_DRIVERS: Dict[int, int] = {10: 440, 11: 450, 12: 525, 13: 580}  # major numbers: of CUDA, of the driver


def fairseq_of(python: Tuple[int, int]) -> Fairseq:
    """The release of fairseq that a Python runs."""
    return NEW_FAIRSEQ if python >= (3, 11) else OLD_FAIRSEQ


def has_kernels(capability: Capability, kernels: Iterable[str]) -> bool:
    """Whether one of these kernels runs on a card.

    Machine code (``sm_80``) runs on cards of the same major number and the same or a higher minor one. PTX
    (``compute_70``) is compiled for any newer card. Code for one architecture (``sm_90a``) runs on that alone.
    """
    for name in kernels:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", name)
        if found is None:
            continue
        kind, major, minor, suffix = found.groups()
        built_for = (int(major), int(minor))
        if suffix == "a":
            runs = capability == built_for
        elif kind == "compute" and not suffix:
            runs = capability >= built_for
        else:
            runs = capability[0] == built_for[0] and capability >= built_for
        if runs:
            return True
    return False


def oldest_driver(cuda: str) -> int:
    """The major number of the oldest driver that runs programs of a CUDA, such as ``"12.8"``; 0 where none is known."""
    return OLDEST_DRIVERS.get(int(cuda.partition(".")[0]), 0)


def is_too_old(driver: str, cuda: str) -> bool:
    """Whether a driver can't run programs of a CUDA."""
    return int(driver.partition(".")[0]) < oldest_driver(cuda)


def serves(build: Build, card: Card) -> bool:
    """Whether a build has kernels for a card, and the driver is new enough for it."""
    known = card.capability is None or has_kernels(card.capability, build.kernels)
    return known and not is_too_old(card.driver, build.cuda)


def choose(python: Tuple[int, int], cards: Sequence[Card]) -> Choice:
    """The torch to install: the first build that serves all cards, or else the one that serves most.

    If nvidia-smi does not show what the cards are, it is the build with the most kernels that their driver runs.
    """
    fairseq = fairseq_of(python)
    default = fairseq.builds[0]
    if not cards:
        return Choice(default.requirement, "no NVIDIA card was found", "")
    unknown = any(card.capability is None for card in cards)

    def worth(build: Build) -> Tuple[int, int]:
        return sum(serves(build, card) for card in cards), len(build.kernels) if unknown else 0

    best = max(fairseq.builds, key=worth)  # the first of equals
    if worth(best)[0] == 0:
        best = default
    left_out = [card for card in dict.fromkeys(cards) if not serves(best, card)]
    if left_out:
        return Choice(best.requirement, "", "\n".join(_problem(fairseq, best, card) for card in left_out))
    cards_of = "; ".join(str(card) for card in dict.fromkeys(cards))
    reason = f"CUDA {best.cuda} serves this machine's cards ({cards_of})"
    return Choice(best.requirement, f"{reason}; {best.caveat}" if best.caveat else reason, "")


def doubt(requirement: str, cards: Sequence[Card]) -> str:
    """The reasons not to install the torch that somebody asks for; empty if none is known."""
    builds = [*OLD_FAIRSEQ.builds, *NEW_FAIRSEQ.builds]
    named = next((build for build in builds if build.requirement == requirement.replace(" ", "")), None)
    if named is None:
        return ""
    return "\n".join(f"{_obstacle(named, card)}" for card in dict.fromkeys(cards) if not serves(named, card))


def _obstacle(build: Build, card: Card) -> str:
    """The reason why a build does not serve a card."""
    if card.capability is not None and not has_kernels(card.capability, build.kernels):
        return f"{build.requirement} has no kernels for a card of compute capability {dotted(card.capability)}"
    return (
        f"{build.requirement} needs driver {oldest_driver(build.cuda)} or newer (CUDA {build.cuda}), and this is "
        f"{card.driver}"
    )


def _problem(fairseq: Fairseq, taken: Build, card: Card) -> str:
    """The reason why a card can't be used, and what to do about it."""
    what: List[str] = []
    mine = _with_kernels(fairseq, card)
    other = OLD_FAIRSEQ if fairseq is NEW_FAIRSEQ else NEW_FAIRSEQ
    elsewhere = [build for build in _with_kernels(other, card) if serves(build, card)]
    usable = [build for build in mine if serves(build, card)]
    if usable:  # but another card of this machine needs another torch
        why = _obstacle(taken, card)
        elsewhere = []
        what.append(f"set TORCH={usable[0].requirement} to use this card instead of the others")
    elif mine:
        easiest = min(mine, key=lambda build: oldest_driver(build.cuda))
        why = _obstacle(easiest, card)
        what.append(f"install driver {oldest_driver(easiest.cuda)} or newer")
    else:
        why = (
            f"No torch on PyPI that works with {fairseq.name} on Python {fairseq.pythons} has kernels for a card of "
            f"compute capability {dotted(card.capability or (0, 0))}"
        )
    if elsewhere:
        what.append(f"take Python {other.pythons}, where {elsewhere[0].requirement} serves it")
    if not what:
        what.append("take another torch that has some, if there is one, or decode on the CPU")
    return f"{why}: {', or '.join(what)}"


def _with_kernels(fairseq: Fairseq, card: Card) -> List[Build]:
    return [build for build in fairseq.builds if card.capability is None or has_kernels(card.capability, build.kernels)]
