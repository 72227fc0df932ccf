from __future__ import annotations

import pytest

from fairseq_el.cards import nvidia_smi as module
from fairseq_el.cards.nvidia_smi import Card, shown_cards


def test_cards(nvidia_smi):
    nvidia_smi(("7.0", "535.104.05"), ("10.0", "535.104.05"))
    assert shown_cards() == ([Card((7, 0), "535.104.05"), Card((10, 0), "535.104.05")], "")


def test_without_the_program(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shown_cards() == ([], "")


def test_an_old_one_that_does_not_know_the_capability(nvidia_smi):
    nvidia_smi(told=False, second="echo 440.33.01; echo 440.33.01")
    assert shown_cards() == ([Card(None, "440.33.01")] * 2, "")


def test_a_card_that_does_not_tell(nvidia_smi):
    nvidia_smi(("[N/A]", "535.104.05"), ("8.6", "535.104.05"))
    assert shown_cards().cards == [Card(None, "535.104.05"), Card((8, 6), "535.104.05")]


def test_what_stands_around_the_answer_is_not_read(nvidia_smi):
    nvidia_smi(first="echo 'WARNING: infoROM is corrupted'; echo '8.0, 535.104.05'; echo; exit 15")
    assert shown_cards().cards == [Card((8, 0), "535.104.05")]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("echo 'No devices were found'; exit 6", "No devices were found"),
        (
            "echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.' >&2; exit 9",
            "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.",
        ),
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "Failed to initialize NVML"),
        ("exit 0", "nothing"),
        ("echo '7, x'; echo 'a,b,c'; echo 7.0; echo ', 535.1'; echo '7.0, 535.1, V100'", "7, x"),
        ("printf '\\377\\376\\n'", "\ufffd\ufffd"),
        ("head -c 100000 /dev/zero | tr '\\0' x", "xxx"),
    ],
)
def test_failures_and_nonsense(nvidia_smi, answer, said):
    nvidia_smi(first=answer, second=answer)
    cards, problem = shown_cards()
    assert cards == [] and problem.startswith(f"nvidia-smi shows no card; it says: {said}") and len(problem) < 300


def test_it_does_not_run(nvidia_smi, tmp_path):
    nvidia_smi()
    (tmp_path / "bin" / "nvidia-smi").write_bytes(b"\x7fELF")
    assert shown_cards() == ([], "nvidia-smi does not run: Exec format error")


def test_it_hangs(nvidia_smi, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.1)
    nvidia_smi(first="exec sleep 5", second="exec sleep 5")
    assert shown_cards() == ([], "nvidia-smi did not answer in 0.1 seconds")
