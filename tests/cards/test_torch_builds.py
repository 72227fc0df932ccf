"""Which torch for which card, and the tables of it in docs/install.md and the README."""

from __future__ import annotations

import re

import pytest

from fairseq_el.cards.nvidia_smi import Card
from fairseq_el.cards.torch_builds import NEW_FAIRSEQ, OLD_FAIRSEQ, choose, doubt, has_kernels, is_too_old

NEW_DRIVER = "580.65.06"
NEW, OLD = (3, 11), (3, 10)
NOTHING = ""


@pytest.mark.parametrize(
    ("capability", "kernels", "runs"),
    [
        ((7, 0), "sm_70", True),
        ((7, 5), "sm_70", True),  # the same major number, and not older
        ((7, 0), "sm_75", False),
        ((8, 9), "sm_86", True),
        ((8, 0), "sm_86", False),
        ((8, 0), "sm_37 sm_50 sm_60 sm_70", False),
        ((9, 0), "sm_80 sm_86", False),
        ((9, 0), "sm_90a", True),
        ((9, 0), "compute_70", True),  # PTX: compiled for any newer card
        ((7, 0), "compute_75", False),
        ((10, 3), "sm_100", True),
        ((10, 3), "sm_100f", True),  # for a family
        ((10, 3), "sm_100a", False),  # for that one alone
        ((12, 0), "compute_90a", False),
        ((11, 0), "sm_100 sm_120", False),
        ((12, 1), "sm_75 sm_80 sm_120", True),
        ((9, 0), "gfx90a sm_ nonsense", False),
        ((7, 0), NOTHING, False),
    ],
)
def test_kernels(capability, kernels, runs):
    assert has_kernels(capability, kernels.split()) is runs


def test_drivers():
    assert is_too_old("535.104.05", "13.0") and not is_too_old("580.65.06", "13.0")
    assert is_too_old("470.82.01", "12.8") and not is_too_old("525.60.13", "12.6")
    assert is_too_old("418.67", "10.2") and not is_too_old("440.33", "10.2") and not is_too_old("450.80.02", "11.7")


@pytest.mark.parametrize(
    ("python", "capability", "driver", "torch"),
    [
        (NEW, (6, 0), NEW_DRIVER, "2.7.1"),
        (NEW, (5, 2), "525.60.13", "2.7.1"),
        (NEW, (7, 0), NEW_DRIVER, "2.10.0"),
        ((3, 13), (7, 0), "535.104.05", "2.10.0"),
        (NEW, (7, 5), NEW_DRIVER, "2.13.0"),
        (NEW, (7, 5), "550.54.15", "2.10.0"),
        (NEW, (8, 0), NEW_DRIVER, "2.13.0"),
        (NEW, (8, 0), "535.104.05", "2.10.0"),
        (NEW, (9, 0), NEW_DRIVER, "2.13.0"),
        (NEW, (12, 0), "575.51.03", "2.10.0"),
        (OLD, (6, 0), NEW_DRIVER, "1.12.1"),
        ((3, 8), (7, 0), "440.33", "1.12.1"),
        (OLD, (7, 5), "535.104.05", "1.12.1"),
        (OLD, (8, 0), "470.82.01", "1.13.1"),
        (OLD, (8, 9), NEW_DRIVER, "1.13.1"),
        (OLD, None, "470.82.01", "1.13.1"),  # not told what it is: the one for most cards
        (OLD, None, "440.33", "1.12.1"),
        (NEW, None, NEW_DRIVER, "2.10.0"),
    ],
)
def test_the_torch_that_serves_a_card(python, capability, driver, torch):
    choice = choose(python, [Card(capability, driver)] * 2)
    assert choice.requirement == f"torch=={torch}" and not choice.problem
    assert driver in choice.reason
    assert ("stock fairseq pre-norm models only" in choice.reason) is (torch == "1.13.1")


def test_without_a_card_the_default():
    assert choose(NEW, []).requirement == "torch==2.13.0" and choose(OLD, []).requirement == "torch==1.12.1"


@pytest.mark.parametrize(
    ("python", "capability", "driver", "what"),
    [
        (OLD, (9, 0), NEW_DRIVER, "compute capability 9.0: take Python 3.11 to 3.13, where torch==2.13.0 serves it"),
        (OLD, (12, 0), "575.51.03", "take Python 3.11 to 3.13, where torch==2.10.0 serves it"),
        (NEW, (3, 7), "470.82.01", "take Python 3.8 to 3.10, where torch==1.12.1 serves it"),
        (
            NEW,
            (8, 0),
            "470.82.01",
            "needs driver 525 or newer (CUDA 12.8), and this is 470.82.01: install driver 525 or newer, or take Python "
            "3.8 to 3.10, where torch==1.13.1 serves it",
        ),
        (NEW, (9, 0), "520.61.05", "and this is 520.61.05: install driver 525 or newer"),
        (OLD, (7, 0), "418.67", "needs driver 440 or newer (CUDA 10.2), and this is 418.67: install driver 440"),
        (NEW, (3, 5), "470.82.01", "compute capability 3.5: take another torch that has some, if there is one"),
        (OLD, (14, 0), NEW_DRIVER, "compute capability 14.0: take another torch"),
    ],
)
def test_what_to_do_where_none_serves_it(python, capability, driver, what):
    choice = choose(python, [Card(capability, driver)])
    assert choice.requirement == choose(python, []).requirement and not choice.reason
    assert what in choice.problem and "\n" not in choice.problem


def test_cards_of_several_kinds():
    card = {name: Card(name, NEW_DRIVER) for name in ((6, 0), (7, 0), (8, 0), (9, 0), (12, 0))}
    assert choose(NEW, [card[7, 0], card[9, 0]]).requirement == "torch==2.10.0"
    assert choose(NEW, [card[6, 0], card[9, 0]]).requirement == "torch==2.7.1"
    assert choose(OLD, [card[7, 0], card[8, 0]]).requirement == "torch==1.13.1"
    both = choose(NEW, [card[6, 0], card[12, 0], card[12, 0]])
    assert both.requirement == "torch==2.13.0" and both.problem == (
        "torch==2.13.0 has no kernels for a card of compute capability 6.0: set TORCH=torch==2.7.1 to use this card "
        "instead of the others"
    )


def test_doubts_about_a_torch_that_was_asked_for():
    v100, a100 = Card((7, 0), NEW_DRIVER), Card((8, 0), "535.104.05")
    assert doubt("torch==2.13.0", [v100]) == "torch==2.13.0 has no kernels for a card of compute capability 7.0"
    assert "needs driver 580 or newer" in doubt("torch == 2.13.0", [a100])
    assert doubt("torch==2.10.0", [v100, a100]) == "" and doubt("torch==2.4.0", [v100]) == ""


def test_the_table_of_the_documentation(repository):
    """A row for every generation: its compute capabilities, and the torch for new and for old Pythons."""
    page = (repository / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*\((\d+\.\d)(?: to (\d+\.\d))?\) \| (.*) \| (.*) \|$", page, re.M)
    assert len(rows) >= 6
    for first, last, *cells in rows:
        for end in filter(None, (first, last)):
            capability = tuple(map(int, end.split(".")))
            for python, cell in zip((NEW, OLD), cells):
                choice = choose(python, [Card(capability, NEW_DRIVER)])
                if choice.problem:
                    assert cell.startswith("none"), (end, cell)
                else:
                    assert cell == f"`{choice.requirement}`", (end, cell)
    for build in (*NEW_FAIRSEQ.builds, *OLD_FAIRSEQ.builds):
        assert re.search(rf"`{re.escape(build.version)}` [^;.]*CUDA {re.escape(build.cuda)}\b", page), build


def test_the_list_of_the_readme(repository):
    """The cards of the table, by the torch that each takes on new Pythons."""
    page = (repository / "docs" / "install.md").read_text(encoding="utf-8")
    expected: dict[str, list[str]] = {}
    for cards, torch in re.findall(r"^\| (.*) \([\d. to]+\) \| `(torch==[\d.]+)` \|", page, re.M):
        expected.setdefault(torch, []).append(cards)
    readme = (repository / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- (.*): `(torch==[\d.]+)`$", readme, re.M)
    assert {torch: cards.split("; ") for cards, torch in listed} == expected
