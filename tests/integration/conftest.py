from __future__ import annotations

from pathlib import Path

import pytest
from commands import EXAMPLE, bundled_pieces, run, train_language_model

TINY = ["--decoder-layers", "2", *(f"--decoder-{width}-dim=32" for width in ("embed", "input", "output"))]


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The first 40 bundled sentence pairs as ``fairseq-preprocess`` leaves them: splits train, valid and test."""
    work = tmp_path_factory.mktemp("deen")
    for language in ("de", "en"):
        (work / f"text.{language}").write_text(bundled_pieces(language, 40), encoding="utf-8")
    text = work / "text"
    splits = ["--trainpref", text, "--validpref", text, "--testpref", text]
    dictionaries = ["--srcdict", EXAMPLE / "dict.de.txt", "--tgtdict", EXAMPLE / "dict.en.txt"]
    run("preprocess", "-s", "de", "-t", "en", *splits, *dictionaries, "--destdir", work / "data-bin")
    return work / "data-bin"


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return (EXAMPLE / "captions.de").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="session")
def language_model(tmp_path_factory) -> Path:
    """A tiny model of the bundled captions in ``checkpoint_last.pt``; ``data-bin`` has the first 40 as its test set."""
    work = tmp_path_factory.mktemp("lm")
    lines = (EXAMPLE / "captions.en").read_text(encoding="utf-8").splitlines()
    (work / "some.txt").write_text("\n".join(lines[:40]) + "\n", encoding="utf-8")
    train_language_model(work, EXAMPLE / "captions.en", work / "some.txt", *TINY, "--max-update", "30")
    return work
