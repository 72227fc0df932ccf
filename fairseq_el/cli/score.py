"""``fairseq-el score``: BLEU, chrF and ROUGE of decoded text."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, List, Optional, Sequence

from sacrebleu.metrics import BLEU
from tabulate import tabulate

from fairseq_el.cli.fairseq_import import import_fairseq
from fairseq_el.cli.options import not_negative, whole
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.files import TextLines, need_directory, one_line, read_lines, refuse_to_overwrite, write_whole
from fairseq_el.scoring import (
    FORMATS,
    METRICS,
    SPLITS,
    GenerateOutput,
    Score,
    as_words,
    is_generate_output,
    read_generate_output,
    score_bleu,
    score_chrf,
    score_rouge,
    warn_of_dropped_letters,
)

_DESCRIPTION = """\
Scores what fairseq-generate wrote, whatever the order it was decoded in, or plain text with one hypothesis per line.

Of the output of fairseq-generate, hypotheses are the lines D- (detokenised, if it was given --bpe and --tokenizer) and
references the lines T-. BLEU and chrF are sacrebleu's, ROUGE is rouge-score's with Porter's stemmer; each comes with
the signature that repeats it, and with --confidence with the interval that holds 95 % of bootstrap samples.

Files are UTF-8. Only a newline ends a line, or CR LF if all lines of the file end so. A hypothesis of fairseq's may
have line ends in it, and some models write them as <n> or <q>: they end sentences for ROUGE-Lsum, and are spaces for
all other scores. --extract writes spaces for line ends, and <n> and <q> as they are. ROUGE sees no letters but a to z;
a warning says if many are lost."""

_EXAMPLE = """\
examples:

  fairseq-generate DATA --path model.pt --bpe sentencepiece ... > output.txt
  fairseq-el score output.txt
  fairseq-el score output.txt --metrics rouge --ref test.target --confidence
  fairseq-el score output.txt --extract hypo test.hypo"""

_PIECES = re.compile("\u2581|@@( |$)")
_SEED = 12345  # sacrebleu's


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "score", run, summary, _DESCRIPTION, _EXAMPLE)
    _add_texts(parser)
    _add_metrics(parser)
    _add_output(parser)


def _add_texts(parser: Any) -> None:
    parser.add_argument("file", metavar="FILE", help="output of fairseq-generate or -interactive, or plain text")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="auto",
        help="the format of FILE: the output of fairseq's programs, or text with a hypothesis on each line (default: "
        "found by its lines)",
    )
    parser.add_argument(
        "--ref",
        action="append",
        default=[],
        metavar="FILE",
        help="references, one per line in the order of the data set, instead of the lines T-; several times for "
        "several references of each sentence",
    )
    parser.add_argument(
        "--post-process",
        type=_symbol,
        metavar="SYMBOL",
        help="join pieces first, as the option of fairseq-generate does: sentencepiece, subword_nmt, ...",
    )


def _add_metrics(parser: Any) -> None:
    parser.add_argument(
        "--metrics", type=_metrics, default=METRICS, metavar="LIST", help="of bleu,chrf,rouge (default: all)"
    )
    parser.add_argument(
        "--lowercase", action="store_true", help="lowercase texts for BLEU and chrF (ROUGE ignores case)"
    )
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
        help="what ends a sentence for ROUGE-Lsum: lines: line ends, also <n> and <q>; punctuation: also . ! ? with "
        "closing quotes and a space (default: %(default)s)",
    )
    parser.add_argument("--confidence", action="store_true", help="intervals by bootstrap")
    parser.add_argument(
        "--samples", type=whole(0, 100_000), default=1000, metavar="N", help="of the bootstrap (default: 1000)"
    )
    parser.add_argument(
        "--seed", type=not_negative, default=_SEED, metavar="N", help="of the bootstrap (default: %(default)s)"
    )


def _add_output(parser: Any) -> None:
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
    output = _read_output(options.file, options.format)
    if options.extract is not None:
        what, path = options.extract
        _extract(output, what, path, options.post_process, options.force)
        return 0
    hypotheses = _texts(output, "hypo", options.post_process)
    if options.ref:
        references = [read_lines(Path(path), "--ref").lines for path in options.ref]
    elif output.references:
        references = [_texts(output, "ref", options.post_process)]
    else:
        raise OptionError(f"{options.file} has no references (lines T-), so --ref FILE is needed")
    for path, texts in zip(options.ref or ["the lines T-"], references):
        if len(texts) != len(hypotheses):
            raise FairseqElError(
                f"there must be as many references as hypotheses; {options.file} has {len(hypotheses)} hypotheses, "
                f"{path} has {len(texts)} lines{_of_other_ends([*texts, *hypotheses])}. Was the same part of the data "
                "set decoded?"
            )
    if any(_PIECES.search(text) for text in hypotheses):
        raise FairseqElError(
            f"{options.file} has pieces of words (\u2581 or @@), and scores are of words. Give --bpe and --tokenizer "
            "to fairseq-generate, or --post-process sentencepiece (or subword_nmt) here"
        )
    scores = _scores(options, hypotheses, references)
    warnings = _warnings(options, hypotheses, references)
    for warning in warnings:
        sys.stderr.write(f"fairseq-el: warning: {warning}\n")
    count = len(hypotheses)
    write_line(_as_json(scores, count, warnings) if options.json else _as_table(scores, count))
    return 0


def _read_output(path: str, format_: str) -> GenerateOutput:
    text: TextLines = read_lines(Path(path), "FILE")
    if format_ == "fairseq" or (format_ == "auto" and is_generate_output(text.lines)):
        return read_generate_output(text.lines, text.is_ended)
    return GenerateOutput(hypotheses=dict(enumerate(text.lines)))


def _of_other_ends(texts: Sequence[str]) -> str:
    """A remark on characters that end lines elsewhere, for a message about a number of lines; empty without any."""
    count = sum(len(text.splitlines()) > 1 for text in texts)
    return f" (only a newline ends a line; {count} have other line ends in them, such as CR or U+2028)" if count else ""


def _warnings(options: argparse.Namespace, hypotheses: List[str], references: List[List[str]]) -> List[str]:
    found = []
    count = sum(as_words(text) != text for texts in (hypotheses, *references) for text in texts)
    if count:
        found.append(f"{count} texts have line ends in them, or <n> or <q>, which count as line ends and not as words")
    if "rouge" in options.metrics:
        dropped = warn_of_dropped_letters(hypotheses, references)
        found += [dropped] if dropped else []
    return found


def _scores(options: argparse.Namespace, hypotheses: List[str], references: List[List[str]]) -> List[Score]:
    samples = options.samples if options.confidence else 0
    scores: List[Score] = []
    os.environ["SACREBLEU_SEED"] = str(options.seed)
    try:
        if "bleu" in options.metrics:
            scores += score_bleu(hypotheses, references, options.tokenize, options.lowercase, samples)
        if "chrf" in options.metrics:
            scores += score_chrf(hypotheses, references, options.lowercase, samples)
    except (ImportError, RuntimeError, ValueError) as error:  # of sacrebleu
        raise OptionError(f"sacrebleu can't score this: {one_line(str(error))}") from error
    if "rouge" in options.metrics:
        split = SPLITS[options.sentences]
        scores += score_rouge(hypotheses, references, split, options.sentences, samples, options.seed)
    return scores


def _as_json(scores: List[Score], count: int, warnings: List[str]) -> str:
    found = {score.name: score.as_dict() for score in scores}
    return json.dumps({"sentences": count, "scores": found, "warnings": warnings}, indent=2)


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
    texts = _texts(output, what, symbol)
    text = "".join(one_line(line) + "\n" for line in texts)
    count = sum(one_line(line) != line for line in texts)
    if count:
        sys.stderr.write(f"fairseq-el: warning: {count} texts have line ends in them, which are spaces in {path}\n")
    if path == "-":
        write_line(text[:-1])
        return
    write_whole(Path(path), lambda unfinished: unfinished.write_bytes(text.encode("utf-8")), force)


def _texts(output: GenerateOutput, what: str, symbol: Optional[str]) -> List[str]:
    texts, name = {
        "hypo": (output.hypotheses, "hypotheses"),
        "ref": (output.references, "references"),
        "src": (output.sources, "sources"),
    }[what]
    in_order = output.in_order(texts, name)
    return in_order if symbol is None else [_post_process(text, symbol) for text in in_order]


def _post_process(text: str, symbol: str) -> str:
    import_fairseq()
    from fairseq.data.data_utils import post_process

    return str(post_process(text, symbol))


def _metrics(text: str) -> List[str]:
    names = text.split(",")
    for name in names:
        if name not in METRICS:
            raise argparse.ArgumentTypeError(f"must name metrics out of {', '.join(METRICS)}; got {name!r}")
    return names


def _symbol(text: str) -> str:
    try:
        _post_process("", text)
    except NotImplementedError as error:
        raise argparse.ArgumentTypeError(f"must be one of fairseq's, such as sentencepiece; got {text!r}") from error
    return text
