"""``fairseq-el score``: BLEU, chrF and ROUGE of what was decoded."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any, List, Optional

from fairseq.data.data_utils import post_process
from sacrebleu.metrics import BLEU
from tabulate import tabulate

from fairseq_el.cli.numbers import not_negative
from fairseq_el.cli.output import write_line
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.outputs import need_directory, refuse_to_overwrite
from fairseq_el.scoring import (
    METRICS,
    SPLITS,
    GenerateOutput,
    Score,
    is_generate_output,
    read_generate_output,
    score_bleu,
    score_chrf,
    score_rouge,
)
from fairseq_el.whole_files import write_whole

_DESCRIPTION = """\
Scores what fairseq-generate wrote, whatever the order it was decoded in, or plain text with one hypothesis per line.

Of the output of fairseq-generate, hypotheses are the lines D- (detokenised, if it was given --bpe and --tokenizer) and
references the lines T-. BLEU and chrF are sacrebleu's, ROUGE is rouge-score's with Porter's stemmer; each comes with
the signature that repeats it, and with --confidence with the interval that holds 95 % of bootstrap samples."""

_EXAMPLE = """\
examples:

  fairseq-generate DATA --path model.pt --bpe sentencepiece ... > output.txt
  fairseq-el score output.txt
  fairseq-el score output.txt --metrics rouge --ref test.target --confidence
  fairseq-el score output.txt --extract hypo test.hypo"""

_PIECES = re.compile("\u2581|@@( |$)")
_SEED = 12345  # sacrebleu's


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "score",
        help="BLEU, chrF and ROUGE of what fairseq-generate wrote",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("file", metavar="FILE", help="output of fairseq-generate, or plain text")
    parser.add_argument(
        "--ref",
        action="append",
        default=[],
        metavar="FILE",
        help="references, one per line in the order of the data set, instead of the lines T-; several times for "
        "several references of each sentence",
    )
    parser.add_argument(
        "--metrics", type=_metrics, default=METRICS, metavar="LIST", help="of bleu,chrf,rouge (default: all)"
    )
    parser.add_argument("--lowercase", action="store_true", help="for BLEU and chrF; ROUGE never sees case")
    parser.add_argument(
        "--tokenize",
        choices=sorted(BLEU.TOKENIZERS),
        metavar="NAME",
        help=f"sacrebleu's tokeniser for BLEU, one of {', '.join(sorted(BLEU.TOKENIZERS))} (default: 13a)",
    )
    parser.add_argument(
        "--sentences",
        choices=sorted(SPLITS),
        default="punctuation",
        help="what ends a sentence for ROUGE-Lsum: . ! ? and a space, or line ends, written <q> (default: %(default)s)",
    )
    parser.add_argument(
        "--post-process",
        type=_symbol,
        metavar="SYMBOL",
        help="join pieces first, as the option of fairseq-generate does: sentencepiece, subword_nmt, ...",
    )
    parser.add_argument("--confidence", action="store_true", help="intervals by bootstrap")
    parser.add_argument(
        "--samples", type=not_negative, default=1000, metavar="N", help="of the bootstrap (default: 1000)"
    )
    parser.add_argument(
        "--seed", type=not_negative, default=_SEED, metavar="N", help="of the bootstrap (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print scores for programs")
    parser.add_argument(
        "--extract",
        nargs=2,
        metavar=("WHAT", "OUT"),
        help="write hypotheses (hypo), references (ref) or sources (src) to a file in the order of the data set, and "
        "score nothing; - is standard output",
    )
    parser.add_argument("--force", action="store_true", help="let --extract overwrite its file")


def run(options: argparse.Namespace) -> int:
    if options.extract is not None and options.extract[1] != "-":
        refuse_to_overwrite(Path(options.extract[1]), "--extract", options.force, [options.file, *options.ref])
        need_directory(Path(options.extract[1]), "--extract")
    lines = _read_lines(options.file, "FILE")
    output = (
        read_generate_output(lines) if is_generate_output(lines) else GenerateOutput(hypotheses=dict(enumerate(lines)))
    )
    if options.extract is not None:
        what, path = options.extract
        _extract(output, what, path, options.post_process, options.force)
        return 0
    hypotheses = _texts(output, "hypo", options.post_process)
    if options.ref:
        references = [_read_lines(path, "--ref") for path in options.ref]
    elif output.references:
        references = [_texts(output, "ref", options.post_process)]
    else:
        raise OptionError(f"{options.file} has no references (lines T-), so --ref FILE is needed")
    for path, texts in zip(options.ref or ["the lines T-"], references):
        if len(texts) != len(hypotheses):
            raise FairseqElError(
                f"there must be as many references as hypotheses; {options.file} has {len(hypotheses)} hypotheses, "
                f"{path} has {len(texts)} lines. Was the same part of the data set decoded?"
            )
    if any(_PIECES.search(text) for text in hypotheses):
        raise FairseqElError(
            f"{options.file} has pieces of words (\u2581 or @@), and scores are of words. Give --bpe and --tokenizer "
            "to fairseq-generate, or --post-process sentencepiece (or subword_nmt) here"
        )
    scores = _scores(options, hypotheses, references)
    write_line(_as_json(scores, len(hypotheses)) if options.json else _as_table(scores, len(hypotheses)))
    return 0


def _scores(options: argparse.Namespace, hypotheses: List[str], references: List[List[str]]) -> List[Score]:
    samples = options.samples if options.confidence else 0
    scores: List[Score] = []
    os.environ["SACREBLEU_SEED"] = str(options.seed)
    try:
        if "bleu" in options.metrics:
            scores += score_bleu(hypotheses, references, options.tokenize, options.lowercase, samples)
        if "chrf" in options.metrics:
            scores += score_chrf(hypotheses, references, options.lowercase, samples)
    except (ImportError, RuntimeError, ValueError) as error:  # of sacrebleu, for tokenisers that need other packages
        raise OptionError(f"sacrebleu can't score this: {error}") from error
    if "rouge" in options.metrics:
        split = SPLITS[options.sentences]
        scores += score_rouge(hypotheses, references, split, options.sentences, samples, options.seed)
    return scores


def _as_json(scores: List[Score], count: int) -> str:
    return json.dumps({"sentences": count, "scores": {score.name: score.as_dict() for score in scores}}, indent=2)


def _as_table(scores: List[Score], count: int) -> str:
    rows = []
    for score in scores:
        row = {"": score.name, "score": f"{score.value:.2f}"}
        if score.low is not None:
            row["95 % interval"] = f"{score.low:.2f} to {score.high:.2f}"
        rows.append({**row, "signature": score.signature})
    return f"{count} sentences\n\n" + tabulate(rows, headers="keys", disable_numparse=True)


def _extract(output: GenerateOutput, what: str, path: str, symbol: Optional[str], force: bool) -> None:
    if what not in ("hypo", "ref", "src"):
        raise OptionError(f"--extract must be followed by hypo, ref or src; got {what!r}")
    text = "".join(line + "\n" for line in _texts(output, what, symbol))
    if path == "-":
        write_line(text[:-1])
        return
    write_whole(Path(path), lambda unfinished: unfinished.write_text(text, "utf-8"), force)


def _texts(output: GenerateOutput, what: str, symbol: Optional[str]) -> List[str]:
    texts, name = {
        "hypo": (output.hypotheses, "hypotheses"),
        "ref": (output.references, "references"),
        "src": (output.sources, "sources"),
    }[what]
    in_order = output.in_order(texts, name)
    return in_order if symbol is None else [post_process(text, symbol) for text in in_order]


def _read_lines(path: str, option: str) -> List[str]:
    """Lines without their ends; only a newline ends one."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise OptionError(f"{option} must be a file that can be read; {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FairseqElError(
            f"{option} must be text in UTF-8; {path} has byte {error.start} that is not: {error.reason}"
        ) from error
    if not text:
        raise FairseqElError(f"{option} must have lines; {path} is empty")
    return text[:-1].split("\n") if text.endswith("\n") else text.split("\n")


def _metrics(text: str) -> List[str]:
    names = text.split(",")
    for name in names:
        if name not in METRICS:
            raise argparse.ArgumentTypeError(f"must name metrics out of {', '.join(METRICS)}; got {name!r}")
    return names


def _symbol(text: str) -> str:
    try:
        post_process("", text)
    except NotImplementedError as error:
        raise argparse.ArgumentTypeError(f"must be one of fairseq's, such as sentencepiece; got {text!r}") from error
    return text
