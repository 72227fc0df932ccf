"""Decodes the bundled German-English model on the bundled captions with stock fairseq and with EL-attention.

Both through fairseq-generate, in turn, in processes of their own. Prints one table and two translations; exits with
status 1 if a hypothesis differs. Run by ``make demo``.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import sacrebleu
import sentencepiece
from tabulate import tabulate
from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parent.parent
EXAMPLE = REPOSITORY / "examples" / "deen"
# The stock task is fairseq's own throughout; with torch 2.6 or later it needs the plugin to load a checkpoint at all.
METHODS = {"stock": "translation", "EL-attention": "el_translation"}


@dataclass
class Result:
    """What runs of one method gave: ``hypotheses`` by sentence, of the last run; figures, one per run."""

    tokens: dict[int, str] = field(default_factory=dict)
    hypotheses: dict[int, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    cross_attention_bytes: int = 0


def run(command: list[str], log: Path) -> None:
    """Runs a command with its output in a file, shown only if it fails."""
    with log.open("w") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status != 0:
        sys.exit(f"scripts/demo.py: error: {' '.join(command)} ended with status {status}:\n{log.read_text()[-3000:]}")


def prepare(work: Path) -> Path:
    """Sentencepiece and fairseq-preprocess, as a user would run them."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(EXAMPLE / "spm.model"))
    for language in ("de", "en"):
        lines = (EXAMPLE / f"captions.{language}").read_text(encoding="utf-8").splitlines()
        pieces = "".join(" ".join(model.encode(line, out_type=str)) + "\n" for line in lines)
        (work / f"test.{language}").write_text(pieces, encoding="utf-8")
    data = work / "data-bin"
    dictionaries = ["--srcdict", str(EXAMPLE / "dict.de.txt"), "--tgtdict", str(EXAMPLE / "dict.en.txt")]
    command = [sys.executable, "-m", "fairseq_cli.preprocess", "-s", "de", "-t", "en", "--testpref", str(work / "test")]
    run([*command, *dictionaries, "--destdir", str(data)], work / "preprocess.log")
    return data


def decode(method: str, data: Path, work: Path, beam: int, batch_size: int, result: Result) -> None:
    """One run of fairseq-generate."""
    name = method.split("-")[0].lower()
    report, log = work / f"{name}.json", work / f"{name}.log"
    options = ["--path", str(EXAMPLE / "model.pt"), "--beam", str(beam), "--batch-size", str(batch_size)]
    options += ["--required-batch-size-multiple", "1"]  # or the stock task of fairseq 0.12.3 drops the last sentences
    bpe = ["--bpe", "sentencepiece", "--sentencepiece-model", str(EXAMPLE / "spm.model")]
    task = ["--user-dir", str(REPOSITORY / "fairseq_el"), "--task", METHODS[method]]
    script = str(REPOSITORY / "scripts" / "measured_generate.py")
    run([sys.executable, script, str(report), str(data), *task, *options, *bpe], log)
    for line in log.read_text(encoding="utf-8").splitlines():
        if line.startswith(("H-", "D-")):
            index, _, text = line[2:].split("\t")
            (result.tokens if line.startswith("H-") else result.hypotheses)[int(index)] = text
        elif "Translated" in line:
            result.seconds.append(float(re.search(r"in ([\d.]+)s", line).group(1)))
    measured = json.loads(report.read_text())
    result.cross_attention_bytes = measured["cross_attention_bytes"]
    result.peak_bytes.append(measured["peak_cuda_bytes"] or measured["peak_resident_bytes"])


def print_table(results: dict[str, Result], references: list[str]) -> None:
    stock = results["stock"]
    metric = sacrebleu.BLEU()
    rows = []
    for method, result in results.items():
        hypotheses = [result.hypotheses[i] for i in range(len(references))]
        identical = sum(result.tokens[i] == stock.tokens[i] for i in range(len(references)))
        rows.append(
            [
                method,
                f"{metric.corpus_score(hypotheses, [references]).score:.2f}",
                f"{identical} of {len(references)}",
                f"{result.cross_attention_bytes:,}",
                f"{stock.cross_attention_bytes / result.cross_attention_bytes:.1f}x less",
                f"{statistics.median(result.peak_bytes) / 2**20:.0f} MiB",
                f"{statistics.median(result.seconds):.2f} s",
            ]
        )
    rows[0][4] = ""
    headers = ["", "BLEU", "identical to stock", "cross-attention state, bytes", "", "peak memory", "decoding time"]
    print(tabulate(rows, headers=headers, colalign=("left",) + ("right",) * 6, disable_numparse=True))
    print(f"\nBLEU: sacrebleu, {metric.get_signature()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beam", type=int, default=5, help="beam size (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=50, help="sentences in a batch (default: %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of each method; medians are shown (default: %(default)s)"
    )
    args = parser.parse_args()

    work = REPOSITORY / "build" / "demo"
    work.mkdir(parents=True, exist_ok=True)
    references = (EXAMPLE / "captions.en").read_text(encoding="utf-8").splitlines()
    sources = (EXAMPLE / "captions.de").read_text(encoding="utf-8").splitlines()
    data = prepare(work)
    results = {method: Result() for method in METHODS}
    in_turn = [method for _ in range(args.runs) for method in METHODS]
    for method in tqdm(in_turn, desc="fairseq-generate", unit="run", leave=False, disable=None):
        decode(method, data, work, args.beam, args.batch_size, results[method])

    print(f"{len(sources)} German captions into English, beam {args.beam}, batches of {args.batch_size} sentences\n")
    print_table(results, references)
    print("Peak memory is that of the whole process, most of it Python and torch. Times: fairseq's own, medians of")
    print(f"{args.runs} runs in turn. The model is tiny; for larger ones see docs/benchmarks.md.\n")
    for i in (1, 19):
        print(
            f"  German   {sources[i]}\n  EL       {results['EL-attention'].hypotheses[i]}\n  written  {references[i]}\n"
        )
    differing = [i for i, text in results["stock"].tokens.items() if results["EL-attention"].tokens.get(i) != text]
    if differing:
        sys.exit(f"scripts/demo.py: error: sentences {differing} differ from stock; please report this")


if __name__ == "__main__":
    main()
