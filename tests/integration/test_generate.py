"""``fairseq-generate`` and ``fairseq-interactive`` with the bundled model, stock against EL."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import fairseq
import pytest
from commands import EXAMPLE, LOSE_NO_SENTENCE, REPOSITORY, SENTENCEPIECE, USER_DIR, assert_same_hypotheses, run, texts

from fairseq_el.ops import why_no_int8

MODEL = EXAMPLE / "model.pt"
STOCK = ["--user-dir", USER_DIR, "--task", "translation", *LOSE_NO_SENTENCE]
EL = ["--user-dir", USER_DIR, "--task", "el_translation", "--el-ngram-blocking", "stock"]

OPTIONS = {
    "as in the README": [*SENTENCEPIECE],
    "alignment and n-best": ["--beam", "4", "--nbest", "4", "--print-alignment", "hard", "--no-repeat-ngram-size", "2"],
    "sampling": ["--sampling", "--sampling-topp", "0.9", "--beam", "3", "--nbest", "3", "--seed", "5"],
    "prefixes": ["--prefix-size", "3", "--beam", "2", "--lenpen", "0.5", "--min-len", "8", "--unkpen", "1"],
    "diverse": ["--diverse-beam-groups", "2", "--beam", "4", "--batch-size", "40"],
    "retained dropout": ["--retain-dropout", "--retain-dropout-modules", "TransformerDecoderLayer", "--seed", "3"],
    "an ensemble": ["--path", f"{MODEL}:{MODEL}", "--beam", "2"],
    "worker processes": ["--num-workers", "2", "--batch-size", "8"],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_same_as_stock(data, name):
    options = [data, "--path", MODEL, *OPTIONS[name]]
    fresh = name == "as in the README"
    stock, el = (run("generate", *options, *method, fresh=fresh) for method in (STOCK, EL))
    assert "EL-attention enabled in 3 cross-attention modules (el) and 3 self-attention modules (kv)" in el.stderr
    assert "EL-attention" not in stock.stderr
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=40)
    assert texts(el.stdout, "D") == texts(stock.stdout, "D")
    assert texts(el.stdout, "A") == texts(stock.stdout, "A")
    bleu = [[line for line in p.stdout.splitlines() if line.startswith("Generate test")] for p in (el, stock)]
    assert bleu[0] == bleu[1] != []


def test_weights_in_8_bits(data):
    """Scores are not those of fp32, and close to them; most hypotheses are the same."""
    if why_no_int8("cpu"):
        pytest.skip(why_no_int8("cpu"))
    options = [data, "--path", MODEL, *EL, *SENTENCEPIECE]
    exact, int8 = (run("generate", *options, *more).stdout for more in ([], ["--el-weights", "int8"]))
    same = [mine == theirs for mine, theirs in zip(texts(int8, "H"), texts(exact, "H"))]
    assert len(texts(int8, "H")) == len(same) == 40 and sum(same) >= 30
    assert texts(int8, "P") != texts(exact, "P")


def test_print_step_and_no_sentence_lost(data):
    """Stock stops with a KeyError at ``--print-step``, and fairseq 0.12.3 drops a last batch that is not full."""
    el = run("generate", data, "--path", MODEL, *EL, "--print-step", "--batch-size", "7", "--max-len-b", "5")
    assert len(texts(el.stdout, "I")) == len(texts(el.stdout, "H")) == 40
    assert all(1 <= int(steps) <= 6 for _, steps in texts(el.stdout, "I"))


def test_diverse_beam_search_in_several_batches(data):
    """Stock 0.12.3 stops with an IndexError at the second batch."""
    options = ["--diverse-beam-groups", "2", "--beam", "4", "--batch-size", "7", "--max-len-b", "5"]
    el = run("generate", data, "--path", MODEL, *EL, *options)
    assert len(texts(el.stdout, "H")) == 40


@pytest.mark.parametrize("options", [[], ["--buffer-size", "4", "--batch-size", "4", "--beam", "3", "--nbest", "2"]])
def test_interactive_with_empty_lines(data, sentences, options):
    stdin = "\n".join([sentences[0], "", sentences[1], "   ", *sentences[2:5]]) + "\n"
    options = [data, "--path", MODEL, *SENTENCEPIECE, *options]
    stock, el = (run("interactive", *options, *method, stdin=stdin) for method in (STOCK, EL))
    assert "EL-attention enabled" in el.stderr
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=7)
    assert texts(el.stdout, "D") == texts(stock.stdout, "D")


def test_interactive_with_constraints(data, sentences):
    stdin = f"{sentences[1]}\trubber\n{sentences[2]}\triver\n"
    options = [data, "--path", MODEL, "--constraints", "--batch-size", "2", "--buffer-size", "2", *SENTENCEPIECE]
    stock, el = (run("interactive", *options, *method, stdin=stdin) for method in (STOCK, EL))
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=2)
    assert texts(el.stdout, "C") == texts(stock.stdout, "C") != []


def test_user_dir_is_a_relative_path(data, tmp_path):
    (tmp_path / "fairseq_el").symlink_to(USER_DIR)
    options = ["--path", MODEL, "--user-dir", "fairseq_el", "--task", "el_translation"]
    el = run("generate", data, *options, "--max-len-b", "3", cwd=tmp_path)
    assert len(texts(el.stdout, "H")) == 40


def test_user_dir_as_the_documentation_finds_it(data, tmp_path):
    page = (REPOSITORY / "docs" / "decode.md").read_text(encoding="utf-8")
    python_c = re.search(r"--user-dir \"\$\(python -c '(.*?)'\)\"", page).group(1)
    found = subprocess.run([sys.executable, "-c", python_c], cwd=tmp_path, capture_output=True, text=True, check=True)
    options = ["--path", MODEL, "--user-dir", found.stdout.strip(), "--task", "el_translation", "--max-len-b", "3"]
    assert len(texts(run("generate", data, *options, cwd=tmp_path).stdout, "H")) == 40


def test_user_dir_is_the_installed_package_by_name(data, tmp_path):
    """fairseq looks for a user directory beside itself: install both side by side and run from elsewhere."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    without_compiler = {**os.environ, "FAIRSEQ_EL_NATIVE": "0"}  # which takes a minute
    build = [*pip, "--no-build-isolation", "--target", str(site), str(REPOSITORY)]
    subprocess.run(build, check=True, env=without_compiler)
    for package in ("fairseq", "fairseq_cli"):
        source = shutil.ignore_patterns("__pycache__", "examples")
        shutil.copytree(f"{fairseq.__path__[0]}/../{package}", site / package, ignore=source)
    options = ["--path", str(MODEL), "--user-dir", "fairseq_el", "--task", "el_translation", "--max-len-b", "3"]
    environment = {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fairseq_cli.generate", str(data), *options]
    process = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    assert len(texts(process.stdout, "H")) == 40

    after_importing_it = (
        "import sys, fairseq_el\n"
        "from fairseq_cli import generate\n"
        f"for name in ('fairseq_el', {str(site / 'fairseq_el')!r}):\n"
        f"    sys.argv = ['fairseq-generate', {str(data)!r}, *{options!r}, '--user-dir', name]\n"
        "    generate.cli_main()\n"
    )
    command = [sys.executable, "-c", after_importing_it]
    process = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    assert len(texts(process.stdout, "H")) == 80


def test_imported_before_and_used_twice_in_one_process(data, tmp_path):
    script = tmp_path / "twice.py"
    script.write_text(
        "import sys, fairseq_el\n"
        "from fairseq_cli import generate, interactive\n"
        "for task in ('el_translation', 'translation', 'el_translation'):\n"
        f"    sys.argv = ['fairseq-generate', {str(data)!r}, '--path', {str(MODEL)!r}, '--max-len-b', '3',\n"
        f"        '--user-dir', {USER_DIR!r}, '--task', task]\n"
        "    generate.cli_main()\n"
    )
    process = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    results = [line for line in process.stdout.splitlines() if line.startswith("Generate test")]
    assert len(results) == 3 and results[0] == results[2]
