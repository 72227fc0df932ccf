"""Decodes the bundled captions with the bundled German-English model: stock fairseq and EL-attention, side by side.

Prints one table and two translations; exits with status 1 if a hypothesis differs. Run by ``make demo``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import sentencepiece
import yaml

from fairseq_el.files import read_lines

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
from compare import REPOSITORY, compare, run_logged, table, workspace

EXAMPLE = REPOSITORY / "examples" / "deen"
SHOWN = (1, 19)  # sentences
RUNS = 2  # of each method, in turn; medians are shown


def prepare(directory: Path) -> Path:
    """Sentencepiece and fairseq-preprocess, as a user would run them; returns the data directory."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(EXAMPLE / "spm.model"))
    for language in ("de", "en"):
        lines = read(f"captions.{language}")
        pieces = "".join(" ".join(model.encode(line, out_type=str)) + "\n" for line in lines)
        (directory / f"test.{language}").write_text(pieces, encoding="utf-8")
    data = directory / "data-bin"
    dictionaries = ["--srcdict", str(EXAMPLE / "dict.de.txt"), "--tgtdict", str(EXAMPLE / "dict.en.txt")]
    command = [
        sys.executable,
        "-m",
        "fairseq_cli.preprocess",
        "-s",
        "de",
        "-t",
        "en",
        "--testpref",
        str(directory / "test"),
    ]
    run_logged([*command, *dictionaries, "--destdir", str(data)], directory / "preprocess.log")
    return data


def read(name: str) -> list[str]:
    return read_lines(EXAMPLE / name, name).lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=REPOSITORY / "configs" / "demo.yaml", help="decoding settings")
    config = yaml.safe_load(parser.parse_args().config.read_text(encoding="utf-8"))

    options = ["--path", str(EXAMPLE / "model.pt")]
    options += ["--bpe", "sentencepiece", "--sentencepiece-model", str(EXAMPLE / "spm.model")]
    beam = config["decoding"]["beam"]
    options += ["--beam", str(beam), "--batch-size", str(config["batch_size"])]
    with workspace() as directory:
        results = compare([str(prepare(directory)), *options], RUNS, directory)

    sources, references = read("captions.de"), read("captions.en")
    settings = f"beam {beam}, batches of {config['batch_size']} sentences"
    print(f"{len(sources)} German captions into English, {settings}\n")
    print(table(results, references))
    for i in SHOWN:
        print(f"\n  German   {sources[i]}")
        print(f"  EL       {results['EL, kv'].hypotheses[i]}")
        print(f"  written  {references[i]}")


if __name__ == "__main__":
    main()
