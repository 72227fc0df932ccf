"""Step ``score``: what is scored is what was decoded."""

from __future__ import annotations

import contextlib
import json

import pytest
from recipe_files import HERE, write_recipe

from fairseq_el.cli import main
from fairseq_el.recipes import read_recipe, score_step
from fairseq_el.recipes.generate_step import OUTPUT, output_of
from fairseq_el.recipes.preprocess_step import data_of

FILES = ["test.source", "test.target", "model.pt", "dict.txt"]
WORDS = ["a\x85b c d e", "f\u2028g h i j", "k \u4e2d m n", "o p q r\u00a0s", "H-1\t0.5\tbold t u"]


@pytest.fixture
def decoded(tmp_path, monkeypatch):
    """A recipe whose first steps are done, and a program that scores in this process."""

    def run_in_this_process(module, arguments, output, log):
        assert module == "fairseq_el.cli"
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(output.open("w", encoding="utf-8"))))
            stack.enter_context(contextlib.redirect_stderr(stack.enter_context(log.open("w"))))
            assert main(list(map(str, arguments))) == 0

    monkeypatch.setattr(score_step, "run_program", run_in_this_process)
    files, scoring = dict.fromkeys(FILES, HERE), {"metrics": "bleu,rouge", "tokenize": "none"}
    config = write_recipe(tmp_path / "recipe.yaml", files=files, text=FILES[:2], scoring=scoring)
    for name in FILES:
        (tmp_path / name).write_text("x 1\n" if name == "dict.txt" else "x\n")
    (tmp_path / "test.target").write_bytes("\ufeff".encode() + "".join(f"{text}\r\n" for text in WORDS).encode())
    recipe = read_recipe(config)
    data_of(recipe, tmp_path).make(lambda path: (path / "test.source").write_text("x\n" * len(WORDS)))
    records = "".join(
        f"S-{i}\tx\nH-{i}\t-1\t{text}\nD-{i}\t-1\t{text}\nP-{i}\t-0.5000\n"
        for i, text in reversed(list(enumerate(WORDS)))
    )
    output_of(recipe, tmp_path).make(lambda path: (path / OUTPUT).write_bytes(records.encode()))
    return config


def test_texts_are_as_they_were_decoded(decoded, capsys):
    assert main(["recipe", "score", str(decoded), "--work", str(decoded.parent)]) == 0
    said = capsys.readouterr().out
    scores = decoded.parent / "scores"
    found = json.loads((scores / "scores.json").read_text("utf-8"))
    assert found["sentences"] == len(WORDS) and found["scores"]["BLEU"]["value"] == pytest.approx(100)
    references = [" ".join(text.split()) for text in WORDS]
    assert (scores / "references.txt").read_bytes().decode().split("\n") == [*references, ""]
    assert (scores / "hypotheses.txt").read_bytes().decode().split("\n") == [*WORDS, ""]
    (warning,) = found["warnings"]
    assert f"warning: {warning}" in said and "Chinese" in warning
