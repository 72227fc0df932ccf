from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from commands import EXAMPLE, run


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """The first 40 bundled sentence pairs as ``fairseq-preprocess`` leaves them: splits train, valid and test."""
    work = tmp_path_factory.mktemp("deen")
    model = sentencepiece.SentencePieceProcessor(model_file=str(EXAMPLE / "spm.model"))
    for language in ("de", "en"):
        sentences = (EXAMPLE / f"captions.{language}").read_text(encoding="utf-8").splitlines()[:40]
        pieces = "".join(" ".join(model.encode(sentence, out_type=str)) + "\n" for sentence in sentences)
        (work / f"text.{language}").write_text(pieces, encoding="utf-8")
    text = work / "text"
    splits = ["--trainpref", text, "--validpref", text, "--testpref", text]
    dictionaries = ["--srcdict", EXAMPLE / "dict.de.txt", "--tgtdict", EXAMPLE / "dict.en.txt"]
    run("preprocess", "-s", "de", "-t", "en", *splits, *dictionaries, "--destdir", work / "data-bin")
    return work / "data-bin"


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return (EXAMPLE / "captions.de").read_text(encoding="utf-8").splitlines()
