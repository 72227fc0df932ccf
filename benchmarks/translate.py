r"""Translates pieces of sentences with a converted model, in Hugging Face or CTranslate2, as fairseq-generate would.

    python benchmarks/translate.py hf DIR < SOURCE > HYPOTHESES     # DIR is of fairseq-el convert to-hf
    python benchmarks/translate.py ct2 DIR < SOURCE > HYPOTHESES    # DIR is of ct2-fairseq-converter

Makes the hypotheses that docs/convert.md scores. One sentence per line, pieces separated by spaces. Score it with
fairseq-el score --post-process sentencepiece.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Callable

import torch
from common import Arguments, make_parser, run_benchmark
from fairseq.data import Dictionary
from tqdm import tqdm

from fairseq_el.cli.options import positive
from fairseq_el.cli.streams import write_line

BATCH = 64
LONGEST = 200  # fairseq-generate's --max-len-b
Translate = Callable[["list[list[str]]"], "list[list[str]]"]


def with_transformers(directory: str, beam: int) -> Translate:
    """Ids are those of ``dict.txt``, which to-hf writes beside a model that never was Hugging Face's."""
    import transformers

    words = Dictionary.load(str(Path(directory) / "dict.txt"))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch.float32).eval()
    options = {
        "num_beams": beam,
        "early_stopping": True,
        "length_penalty": 1.0,
        "max_length": LONGEST + 2,
        "bad_words_ids": [[words.pad()]],
    }

    def translate(batch: list[list[str]]) -> list[list[str]]:
        rows = [torch.tensor([*(words.index(piece) for piece in pieces), words.eos()]) for pieces in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=words.pad())
        with torch.no_grad():
            found = model.generate(ids, attention_mask=ids.ne(words.pad()).long(), **options)
        special = (words.pad(), words.eos())
        return [[words[i] for i in row if i not in special] for row in found.tolist()]

    return translate


def with_ctranslate2(directory: str, beam: int) -> Translate:
    import ctranslate2

    translator = ctranslate2.Translator(directory, device="cpu", compute_type="float32", intra_threads=1)

    def translate(batch: list[list[str]]) -> list[list[str]]:
        found = translator.translate_batch(
            batch, beam_size=beam, max_decoding_length=LONGEST, suppress_sequences=[["<blank>"]]
        )
        return [result.hypotheses[0] for result in found]

    return translate


def translate_lines(options: argparse.Namespace) -> None:
    make = {"hf": with_transformers, "ct2": with_ctranslate2}[options.program]
    translate = make(options.directory, options.beam)
    sentences = [line.split() for line in sys.stdin]
    order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
    found: dict[int, list[str]] = {}
    for start in tqdm(range(0, len(order), BATCH), unit="batch", disable=None):
        batch = order[start : start + BATCH]
        found.update(zip(batch, translate([sentences[index] for index in batch])))
    for index in range(len(sentences)):
        write_line(" ".join(found[index]))


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("translate.py", __doc__)
    parser.add_argument("program", choices=["hf", "ct2"])
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--beam", type=positive, default=5, metavar="N", help="(default: %(default)s)")
    return run_benchmark(parser, translate_lines, arguments)


if __name__ == "__main__":
    sys.exit(main())
