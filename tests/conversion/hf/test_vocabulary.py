"""Which symbol of fairseq's dictionary is which of Hugging Face's tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fairseq_el.conversion.hf.families import BART, GPT2, MARIAN, MBART25, MBART50, PEGASUS
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.tokenizer_files import read_tokens
from fairseq_el.conversion.hf.vocabulary import EOS, PAD, read_vocabulary


@pytest.fixture
def directory(tmp_path):
    def make(tokens: dict[str, int] | list[str], added: dict[str, int] | None = None, **config: Any) -> HFDirectory:
        ids = tokens if isinstance(tokens, dict) else {token: index for index, token in enumerate(tokens)}
        (tmp_path / "vocab.json").write_text(json.dumps(ids))
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": len(ids), **config}))
        (tmp_path / "added_tokens.json").write_text(json.dumps(added or {}))
        return HFDirectory(tmp_path)

    return make


def test_marian_begins_with_padding(directory, tmp_path):
    """Its ids have no <s>, and padding at the end; the decoder's first symbol is padding."""
    config = {"eos_token_id": 0, "pad_token_id": 4, "decoder_start_token_id": 4}
    (tmp_path / "dict.txt").write_text("▁a 1\n▁b 5\n", encoding="utf-8")  # its counts are kept
    vocabulary = read_vocabulary(directory(["</s>", "<unk>", "▁a", "▁b", "<pad>"], **config), MARIAN)
    assert vocabulary.symbols == ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁b"]
    assert vocabulary.ids == [None, 4, 0, 1, 2, 3]
    assert vocabulary.start == PAD and not vocabulary.is_identity
    assert vocabulary.dictionary_text(with_added=False) == "▁a 1\n▁b 5\n"


def test_gpt2s_end_of_text_is_the_eos(directory):
    tokens = {"!": 0, '"': 1, "<|endoftext|>": 2}
    vocabulary = read_vocabulary(directory(tokens, {"[PAD]": 3}, eos_token_id=2, pad_token_id=3, vocab_size=4), GPT2)
    assert vocabulary.ids == [None, 3, 2, None, 0, 1] and vocabulary.start == EOS
    plain = read_vocabulary(directory(tokens, eos_token_id=2, pad_token_id=2), GPT2)  # padding is the eos, as often
    assert plain.ids == [None, None, 2, None, 0, 1]


def test_rows_without_a_token(directory):
    """Embeddings are padded to a multiple of something."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "madeupword0000", "a"]
    vocabulary = read_vocabulary(directory(tokens, vocab_size=8), BART)
    assert vocabulary.symbols[4:] == ["madeupword0000", "a", "madeupword0001", "madeupword0002"]
    assert vocabulary.is_identity and vocabulary.notes[0].startswith("2 rows of the embedding have no token")


def test_a_mask_without_a_row(directory):
    """bart-large-cnn: its tokenizer has a <mask>, and its model not."""
    tokens = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "<mask>": 5}
    vocabulary = read_vocabulary(directory(tokens, vocab_size=5), BART)
    assert vocabulary.symbols[4:] == ["a"]
    assert vocabulary.notes == ["the tokenizer's <mask> has no row in the model, and is left out of the dictionary"]


def test_symbols_that_a_dictionary_can_not_hold(directory):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "a b", "c\n", "\u2028", "▁d"]
    vocabulary = read_vocabulary(directory(tokens), BART)
    assert vocabulary.symbols[4:] == ["<token4>", "<token5>", "<token6>", "▁d"]
    assert len(vocabulary.dictionary()) == 8


class Sentencepiece:
    """Its model files are texts, with one piece on each line."""

    def __init__(self, model_file):
        self.pieces = Path(model_file).read_text(encoding="utf-8").split()

    def __len__(self):
        return len(self.pieces)

    def id_to_piece(self, index):
        return self.pieces[index]


@pytest.mark.parametrize(
    ("family", "name", "ids"),
    [
        (PEGASUS, "spiece.model", {"<pad>": 0, "</s>": 1, "<mask_2>": 3, "<unk_2>": 4, "<unk_102>": 104, "▁a": 106}),
        (MBART25, "sentencepiece.bpe.model", {"<unk>": 3, "▁a": 4, "▁b": 5, "ar_AR": 6, "zh_CN": 30, "<mask>": 31}),
        (
            MBART50,
            "sentencepiece.bpe.model",
            {"▁b": 5, "ar_AR": 6, "zh_CN": 30, "af_ZA": 31, "sl_SI": 57, "<mask>": 58},
        ),
    ],
)
def test_ids_of_sentencepiece_models(family, name, ids, tmp_path, monkeypatch):
    """As the tokenizers of transformers have them, whose first words are not in the model."""
    monkeypatch.setattr("sentencepiece.SentencePieceProcessor", Sentencepiece)
    special = ["<pad>", "</s>", "<unk>"] if family is PEGASUS else ["<unk>", "<s>", "</s>"]
    (tmp_path / name).write_text("\n".join([*special, "▁a", "▁b"]), encoding="utf-8")
    (tmp_path / "config.json").write_text("{}")
    tokens = read_tokens(HFDirectory(tmp_path), family)
    assert {token: index for index, token in tokens.items() if token in ids} == ids
