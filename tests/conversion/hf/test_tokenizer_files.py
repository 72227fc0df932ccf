"""GPT-2's byte-level BPE, in both programs' files."""

from __future__ import annotations

import json

import pytest
from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode, get_encoder

from fairseq_el.conversion.hf.tokenizer_files import byte_symbols, encoder_of, merges_text, read_merges

MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]


def test_bytes_are_in_the_order_of_fairseqs_code():
    assert byte_symbols() == list(bytes_to_unicode().values())


def test_files_that_fairseq_reads(tmp_path):
    (tmp_path / "encoder.json").write_text(json.dumps(encoder_of(MERGES)))
    (tmp_path / "vocab.bpe").write_text(merges_text(MERGES), encoding="utf-8")
    bpe = get_encoder(str(tmp_path / "encoder.json"), str(tmp_path / "vocab.bpe"))
    assert bpe.encode(" the h") == [258, 220, 71]
    assert bpe.decode([258, 220, 71]) == " the h"


@pytest.mark.parametrize("lines", [["#version: 0.2", "Ġ t", "h e", "Ġt he", ""], ["Ġ t", "h e", "Ġt he"], MERGES])
def test_forms_of_merges(lines):
    assert read_merges(lines) == MERGES
    assert read_merges(merges_text(MERGES).split("\n")) == MERGES


def test_no_merge():
    with pytest.raises(ValueError, match=r"a merge must be two symbols; one is \['a', 'b', 'c'\]"):
        read_merges(["a b c"])


def test_the_published_files(shared):
    """Rebuilt from merges alone, as they are in Hugging Face's files."""
    directory = shared / "data" / "gpt2_bpe"
    if not directory.is_dir():
        pytest.skip(f"no GPT-2 BPE files at {directory}")
    text = (directory / "vocab.bpe").read_text("utf-8")
    merges = read_merges(text.split("\n"))
    assert merges_text(merges) == text
    assert encoder_of(merges) == json.loads((directory / "encoder.json").read_text("utf-8"))
