"""Step ``preprocess``: text as fairseq's own encoder splits it, and files that are not what they should be."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fairseq
import pytest
from random_models import TINY_BART, write_random_model
from recipe_files import HERE, write_recipe
from tiny_data import HARD_LINES, write_byte_bpe

from fairseq_el.cli import main
from fairseq_el.recipes import read_recipe
from fairseq_el.recipes.preprocess_step import Language, data_of, write_tokens
from fairseq_el.tokenization import LineTokenizer

ENCODER = Path(fairseq.__file__).parent / "examples" / "roberta" / "multiprocessing_bpe_encoder.py"
BPE = {"name": "gpt2", "encoder": "encoder.json", "vocab": "vocab.bpe"}
FILES = ["test.source", "test.target", "model.pt", "dict.source.txt", "encoder.json", "vocab.bpe"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """All that a recipe needs, with a BPE that merges nothing: a piece is a byte."""
    work = tmp_path_factory.mktemp("inputs")
    for language in ("source", "target"):
        (work / f"test.{language}").write_text("some text\nmore\n")
        (work / f"dict.{language}.txt").write_text("".join(f"{piece} 1\n" for piece in range(256)))
    write_byte_bpe(work)
    write_random_model(work, TINY_BART)
    files = dict.fromkeys(FILES, HERE)
    write_recipe(work / "recipe.yaml", files=files, text=FILES[:2], dictionary="dict.source.txt", bpe=BPE)
    return work


def damage(name: str, content: bytes):
    return lambda work: (work / name).write_bytes(content)


def remove_two(work: Path) -> None:
    (work / "test.target").unlink()
    (work / "vocab.bpe").unlink()


def other_pieces(work: Path) -> None:
    words = (work / "dict.source.txt").read_text()
    (work / "dict.source.txt").write_text(re.sub("^", "x", words, flags=re.M)[:-1])


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (remove_two, "preprocess needs 2 files that are not in .*: test.target, vocab.bpe. Run first:"),
        (damage("dict.source.txt", b"a 1\n"), "encoder: 260 in the checkpoint, 5 in dict.source.txt"),
        (other_pieces, "every token of gpt2 BPE must be in the dictionary; 13 of .*test.source are not"),
        (damage("dict.source.txt", b"no counts\n"), "dict.source.txt must be a dictionary, with a word"),
        (damage("test.target", b"one\n"), "test.source has 2 lines and test.target 1"),
        (damage("test.target", b"\xff\n"), "test.target must be text in UTF-8"),
        (damage("test.source", "so\nja\n".encode("utf-16")), "test.source must be text in UTF-8; .* is in UTF-16"),
        (damage("test.target", b""), "test.target must have lines; .* is empty"),
        (
            damage("test.source", b"a\r\nb\rc\r\n"),
            "test.source must have no carriage return inside a line, .*; line 2 ",
        ),
        (damage("test.target", b"a\r\r\nb\n"), "test.target must have no carriage return inside a line, .*; line 1 "),
        (damage("vocab.bpe", b"\xff"), "the files of BPE gpt2 can't be read"),
        (damage("encoder.json", b"{"), "the files of BPE gpt2 can't be read"),
        (damage("model.pt", b"PK"), "model.pt .* not"),
    ],
)
def test_bad_input(breaks, message, inputs, tmp_path, capsys):
    """Of which nothing is left."""
    work = tmp_path / "work"
    shutil.copytree(inputs, work)
    breaks(work)
    assert main(["recipe", "preprocess", str(work / "recipe.yaml"), "--work", str(work)]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (work / "data").exists() and not list(work.glob(".data*"))


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(inputs, tmp_path):
    tokenizer = LineTokenizer("gpt2", {"encoder": inputs / "encoder.json", "vocab": inputs / "vocab.bpe"})
    found = []
    for name, text in (("plain", b"one\ntwo\n"), ("marked", b"\xef\xbb\xbfone\r\ntwo\r\n")):
        (tmp_path / name).write_bytes(text)
        (tmp_path / f"{name}.d").mkdir()
        language = Language("x", tmp_path / name, inputs / "dict.source.txt", limit=9)
        counts = write_tokens(language, tokenizer, tmp_path / f"{name}.d")
        found.append((counts, [(tmp_path / f"{name}.d" / file).read_bytes() for file in ("test.x", "test.bpe.x")]))
    assert found[0] == found[1] and found[0][0].lines == 2


def test_text_is_split_as_fairseq_does(shared, tmp_path):
    """Byte for byte: all articles and summaries, and lines that are hard."""
    if not ENCODER.exists():
        pytest.skip(f"fairseq is installed without {ENCODER}")
    texts = [(shared / "data" / "cnndm_128" / name).read_bytes() for name in ("articles.txt", "bart_large_cnn.hypo")]
    hard = "\n".join(["", *HARD_LINES, "one\rtwo", "no line end"]).encode()
    (tmp_path / "raw").write_bytes(b"".join(texts) + hard)
    gpt2 = shared / "data" / "gpt2_bpe"
    tokenizer = LineTokenizer("gpt2", {"encoder": gpt2 / "encoder.json", "vocab": gpt2 / "vocab.bpe"})
    counts = write_tokens(Language("all", tmp_path / "raw", gpt2 / "dict.txt", limit=9), tokenizer, tmp_path)
    assert counts.lines == 2 * 128 + len(hard.decode().replace("\r", "\n").split("\n")) and counts.empty == 1
    bpe = ["--encoder-json", gpt2 / "encoder.json", "--vocab-bpe", gpt2 / "vocab.bpe"]
    files = ["--inputs", tmp_path / "raw", "--outputs", tmp_path / "theirs"]
    command = [sys.executable, ENCODER, *files, *bpe, "--keep-empty", "--workers", "1"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    assert (tmp_path / "test.bpe.all").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_files_that_a_description_names_are_what_data_is_made_from(inputs):
    """So that text is split again when one of them changes."""
    description = {"kind": "gpt2", "encoder": "encoder.json", "vocab": "vocab.bpe", "added": []}
    (inputs / "pieces.json").write_text(json.dumps({**description, "prefix_space": False, "others": {}}))
    recipe = dataclasses.replace(
        read_recipe(inputs / "recipe.yaml"), bpe={"name": "el_pieces", "description": "pieces.json"}
    )
    assert {"pieces.json", "encoder.json", "vocab.bpe"} < data_of(recipe, inputs).inputs["files"].keys()
