"""``fairseq-generate`` with a real limit of address space, which whole batches do not fit into."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from commands import EXAMPLE, REPOSITORY, USER_DIR, assert_same_hypotheses, run

# The program, whose generator gets so many more MiB than the process has when it begins to decode.
LIMITED = """
import resource, sys
from pathlib import Path
from fairseq_cli.generate import cli_main
from fairseq_el.generation import ELSequenceGenerator

mebibytes = int(sys.argv.pop(1))
generate = ELSequenceGenerator.generate

def limited(*args, **options):
    ELSequenceGenerator.generate = generate
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mebibytes * 1024**2,) * 2)
    return generate(*args, **options)

ELSequenceGenerator.generate = limited
sys.argv[0] = "fairseq-generate"
cli_main()
"""

OPTIONS = ["--path", EXAMPLE / "model.pt", "--user-dir", USER_DIR, "--task", "el_translation", "--batch-size", "40"]


@pytest.fixture(scope="module")
def generate(data, tmp_path_factory):
    """Runs the program with an address space limited to so many more MiB."""
    program = tmp_path_factory.mktemp("limited") / "generate.py"
    program.write_text(LIMITED)

    def limited(mebibytes, *options, native="1"):
        command = [sys.executable, program, mebibytes, data, *OPTIONS, *options]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        environment["FAIRSEQ_EL_NATIVE"] = native
        return subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, encoding="utf-8", check=False
        )

    return limited


def test_every_sentence_is_written_once_in_the_same_order(data, generate):
    """In Python: native code takes less, and its first failure leaves little room between whole batches and none."""
    beams = ["--beam", "40", "--max-len-b", "4"]
    whole, limited = run("generate", data, *OPTIONS, *beams), generate(25, *beams, native="0")
    assert limited.returncode == 0, limited.stderr
    assert_same_hypotheses(limited.stdout, whole.stdout, num_sentences=40)
    lines = [[line.partition("\t")[0] for line in process.stdout.splitlines()] for process in (whole, limited)]
    assert lines[0][:-1] == lines[1][:-1]  # the last are the scores of all
    assert "ran out of memory" not in whole.stderr
    assert limited.stderr.count("Decoding 40 sentences of up to 26 tokens with beam 40 ran out of memory.") == 1
    assert limited.stderr.count("Hypotheses are the same. ") == limited.stderr.count(": --batch-size ") == 1


def test_a_sentence_that_does_not_fit(generate):
    process = generate(25, "--beam", "1000", "--max-len-b", "40")
    assert process.returncode == 1
    assert "fairseq_el: error: Decoding sentence " in process.stderr and "Traceback" not in process.stderr
    assert "Use a smaller --beam" in process.stderr and "H-" not in process.stdout
