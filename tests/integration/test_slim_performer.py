"""``--arch slim_performer_lm``: trained whole and in slices, resumed, evaluated and decoded by fairseq's programs."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from commands import EXAMPLE, REPOSITORY, USER_DIR, assert_same_hypotheses, hypotheses, run, texts

TINY = ["--decoder-layers", "2", "--decoder-embed-dim", "16", "--decoder-attention-heads", "2"]
TRAINING = [
    *("--arch", "slim_performer_lm_2", *TINY, "--user-dir", USER_DIR, "--criterion", "slim_cross_entropy"),
    *("--optimizer", "adam", "--lr", "0.01", "--clip-norm", "1.0", "--batch-size", "2", "--update-freq", "2"),
    *("--seed", "1", "--num-workers", "0", "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "1"),
]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The bundled English captions as bytes."""
    work = tmp_path_factory.mktemp("bytes")
    content = (EXAMPLE / "captions.en").read_bytes()
    for split, part in (("train", content[:1210]), ("valid", content[1300:1500]), ("test", content[1500:1600])):
        (work / split).write_bytes(part)
    return work


def train(data, directory, *options):
    bytes_task = ["--task", "byte_language_modeling", "--tokens-per-sample", "50"]
    log = run("train", data, *bytes_task, *TRAINING, "--save-dir", directory, *options)
    return re.findall(r'"(?:loss|valid_loss)": "([\d.]+)"', log.stderr + log.stdout)


def saved(directory):
    checkpoint = torch.load(directory / "checkpoint_last.pt", map_location="cpu")
    return checkpoint["model"], checkpoint["last_optimizer_state"]["state"]


@pytest.fixture(scope="module")
def trained(raw, tmp_path_factory):
    """In slices of 17 bytes, of 50, and its losses: two epochs of 25 samples, one of them short.

    13 batches make 7 updates, the last of one batch only.
    """
    directory = tmp_path_factory.mktemp("sliced")
    return directory, train(raw, directory, "--slice-length", "17", "--max-update", "14")


def test_slices_do_not_change_training(raw, trained, tmp_path):
    directory, losses = trained
    assert train(raw, tmp_path, "--max-update", "14") == losses and len(losses) > 14
    for name, weight in saved(tmp_path)[0].items():
        torch.testing.assert_close(saved(directory)[0][name], weight, rtol=1e-3, atol=1e-4)


def test_resumed_training_is_the_same_training(raw, trained, tmp_path):
    train(raw, tmp_path, "--slice-length", "17", "--max-update", "9")
    train(raw, tmp_path, "--slice-length", "17", "--max-update", "14")
    for resumed, whole in zip(saved(tmp_path), saved(trained[0])):
        assert resumed.keys() == whole.keys()
    weights, optimizer = saved(tmp_path)
    expected_weights, expected_optimizer = saved(trained[0])
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)
    for index, state in expected_optimizer.items():
        assert torch.equal(optimizer[index]["exp_avg_sq"], state["exp_avg_sq"])


@pytest.mark.long
def test_resumed_training_with_features_that_are_drawn_anew(raw, tmp_path):
    """In slices and whole, and resumed: the features of an update depend on nothing but its number."""
    redraw = ["--feature-map", "favor+", "--redraw-features", "2", "--slice-length", "17"]
    losses = train(raw, tmp_path / "whole", *redraw, "--max-update", "6", "--slice-length", "0")
    assert train(raw, tmp_path / "sliced", *redraw, "--max-update", "6") == losses
    for updates in ("3", "6"):
        train(raw, tmp_path / "resumed", *redraw, "--max-update", updates)
    (weights, _), (expected, _) = saved(tmp_path / "resumed"), saved(tmp_path / "sliced")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert "decoder.layers.1.directions" in expected


def test_eval_lm(raw, trained):
    """Bits per byte of the validation set, as training found them."""
    directory, losses = trained
    files = {"DATA": raw, "checkpoint_best.pt": directory / "checkpoint_last.pt", "fairseq_el": USER_DIR}
    log = run("eval-lm", *documented("eval-lm", "--tokens-per-sample L", L="50", **files))
    (found,) = re.findall(r"Loss \(base 2\): ([\d.]+)", log.stderr + log.stdout)
    assert float(found) == pytest.approx(float(losses[-1]), abs=2e-3)


def test_eval_lm_of_another_length(raw, trained):
    options = ["--path", trained[0] / "checkpoint_last.pt", "--user-dir", USER_DIR, "--gen-subset", "valid"]
    failed = run("eval-lm", raw, *options, "--task", "byte_language_modeling", fails=True)
    assert "must be at most what the model reads, 50; it is 1024. Give the model's own" in failed.stderr
    assert "Traceback" not in failed.stderr


def documented(program, containing, **words):
    """The command line of a program in docs/slim.md, with files of the test in it: its arguments."""
    text = (REPOSITORY / "docs" / "slim.md").read_text("utf-8").replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith(f"fairseq-{program} ") and containing in line]
    return [words.get(word, word) for word in shlex.split(line)[1:]]


def test_documented_decoding(raw, trained):
    """Text is continued, byte by byte: prompts that are typed, also beyond the length of training, and samples."""
    files = {"DATA": raw, "checkpoint_best.pt": trained[0] / "checkpoint_last.pt", "fairseq_el": USER_DIR}
    options = documented("interactive", "--max-len-b 200 --model-overrides", **files)
    stdin = "A man in\ntwo dogs\n"
    written = texts(run("interactive", *options, stdin=stdin).stdout, "D")
    assert [text[:8] for _, text in written] == ["A man in", "two dogs"] and len(written[0][1]) > 60
    written = run("interactive", *documented("interactive", "--max-len-b 40", **files), stdin=stdin).stdout
    assert all(8 < len(text) < 50 for _, text in texts(written, "D"))
    options = documented("generate", "--prefix-size 20", **files)
    content = (raw / "test").read_bytes()
    written = [text for _, text in texts(run("generate", *options).stdout, "D")]
    assert sorted(text[:20] for text in written) == sorted(content[i : i + 20].decode() for i in (0, 50))
    place = options.index("--prefix-size")
    failed = run("generate", *options[:place], *options[place + 2 :], fails=True)
    assert "fairseq_el: error: fairseq-generate needs --prefix-size N" in failed.stderr


@pytest.mark.skipif(
    int(numpy.__version__.split(".")[0]) >= 2, reason="fairseq's data sets of language models use what numpy 2 removed"
)
def test_stock_and_el_language_modeling_of_preprocessed_words(tmp_path):
    """Both tasks decode with the same constant state."""
    (tmp_path / "text").write_bytes(b"".join((EXAMPLE / "captions.en").read_bytes().splitlines(True)[:40]))
    splits = ["--trainpref", tmp_path / "text", "--validpref", tmp_path / "text", "--testpref", tmp_path / "text"]
    run("preprocess", "--only-source", *splits, "--destdir", tmp_path / "data")
    sizes = ["--tokens-per-sample", "40", "--sample-break-mode", "eos"]
    options = ["--task", "language_modeling", *sizes, "--slice-length", "16", "--max-update", "4"]
    run("train", tmp_path / "data", *TRAINING, *options, "--save-dir", tmp_path)
    decoding = [tmp_path / "data", "--path", tmp_path / "checkpoint_last.pt", "--user-dir", USER_DIR, *sizes]
    decoding += ["--beam", "3", "--max-len-b", "12", "--prefix-size", "2", "--required-batch-size-multiple", "1"]
    stock, el = (run("generate", *decoding, "--task", f"{name}language_modeling") for name in ("", "el_"))
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=40)
    assert len(hypotheses(stock.stdout)) == 40


def test_bad_options(raw, tmp_path):
    for options, message in (
        (["--slice-length", "-2"], "--slice-length must be at least 1, or 0 to train without slices; it is -2"),
        (["--dropout", "0.1", "--decoder-embed-dim", "18"], "--dropout must be 0: a slice is run twice"),
    ):
        arguments = ["--task", "byte_language_modeling", *TRAINING, *options, "--save-dir", tmp_path]
        failed = run("train", raw, *arguments, fails=True)
        assert f"fairseq_el: error: {message}" in failed.stderr or message in failed.stderr
        assert "Traceback" not in failed.stderr
    unknown = ["--task", "byte_language_modeling", *TRAINING, "--feature-map", "exp"]
    assert "invalid choice: 'exp'" in run("train", raw, *unknown, fails=True).stderr


def recipe(config, *arguments, **environment):
    """scripts/train_slim.sh; prints nothing of fairseq's. Its exit status and what it said."""
    command = [REPOSITORY / "scripts" / "train_slim.sh", REPOSITORY / "configs" / config, *arguments]
    environment = {"FAIRSEQ_BIN": f"{Path(sys.executable).parent}/", "PATH": "/usr/bin:/bin", **environment}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


REGIMES = "REGIME must be full, a slice length C, half, third, tune-C, tune-half or tune-third"


def test_the_recipe_fine_tunes(tmp_path):
    """scripts/train_slim.sh: the Copying task, whole and then in slices; what is finished is left as it is."""
    options = ["--decoder-embed-dim", "8", "--copy-valid-examples", "2", "--batch-size", "1"]
    arguments = ["slim_copy.yaml", "tune-third", ".", tmp_path, *options]
    for _ in range(2):
        status, said = recipe(*arguments, LENGTH="20", UPDATES="6")
        assert status == 0, said[-3000:]
        saved = [torch.load(tmp_path / name, map_location="cpu") for name in ("half.pt", "checkpoint_last.pt")]
        assert [u["optimizer_history"][-1]["num_updates"] for u in saved] == [3, 6]
        slices = [getattr(u["cfg"], "criterion", u["cfg"]["criterion"])["slice_length"] for u in saved]
        assert slices == [0, 7]
    assert said.endswith(f"{tmp_path}/checkpoint_last.pt has 6 updates already\n") and "train_inner" not in said
    assert not list(tmp_path.glob("*unfinished*"))


@pytest.mark.parametrize(
    ("regime", "config", "slices"),
    [
        ("full", "slim_copy.yaml", "0 0"),
        ("64", "slim_copy.yaml", "64 64"),
        ("512", "slim_copy.yaml", "512 512"),
        ("tune-500", "slim_ptb.yaml", "0 500"),
        ("third", "slim_enwik8.yaml", "1366 1366"),
        ("1366", "slim_enwik8.yaml", "1366 1366"),
    ],
)
def test_slice_lengths_of_the_recipe(regime, config, slices, tmp_path):
    """With programs that only note what they are asked for: of both halves of the updates, or of all."""
    programs = {
        "python": f'case $1 in *updates_made.py) echo 0 ;; *) exec "{sys.executable}" "$@" ;; esac',
        "fairseq-train": """
            while [ "$1" != --slice-length ]; do shift; done
            echo "$2" >>"$noted"
            while [ "$1" != --save-dir ]; do shift; done
            : >"$2/checkpoint_last.pt"
        """,
    }
    for name, lines in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nset -eu\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    noted = tmp_path / "noted"
    status, said = recipe(config, regime, ".", tmp_path, FAIRSEQ_BIN=f"{tmp_path}/", noted=str(noted))
    assert (status, said) == (0, "")
    assert noted.read_text().split() == slices.split()[0 if regime.startswith("tune") else 1 :]


@pytest.mark.parametrize(
    ("regime", "environment", "message"),
    [
        *((regime, {}, f"{REGIMES}; got '{regime}'") for regime in ("fifth", "0", "tune-", "tune-full", "-3", "2.5")),
        ("12345678901", {}, f"{REGIMES}; got '12345678901'"),
        ("21", {"LENGTH": "20"}, "the slice length of REGIME must be at most L, 20; got 21. Give less, or full"),
        ("tune-513", {}, "the slice length of REGIME must be at most L, 512; got 513. Give less, or full"),
        ("tune-half", {"UPDATES": "1"}, "UPDATES must be at least 2 for tune-half, one of each kind; got 1"),
        ("full", {"UPDATES": "0"}, "UPDATES must be a whole number from 1 to 999999999; got '0'"),
        ("full", {"LENGTH": "-4"}, "LENGTH must be a whole number from 1 to 999999999; got '-4'"),
        ("half", {"LENGTH": "1 0"}, "LENGTH must be a whole number from 1 to 999999999; got '1 0'"),
    ],
)
def test_what_the_recipe_refuses(regime, environment, message, tmp_path):
    status, said = recipe("slim_copy.yaml", regime, ".", tmp_path, **environment)
    assert status == 2 and said.startswith(message) and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "x"], "argument --lr: must be numbers above 0, with commas; got 'x'"),
        (["--length", "1"], "argument --length: must be at least 2, for two halves; got '1'"),
        (["--length=-4"], "argument --length: must be a whole number from 1 on; got '-4'"),
        (["--subset", "dev"], "argument --subset: invalid choice: 'dev'"),
        (["--json", "README.md"], "--json README.md exists already; choose another name, or add --force"),
        (["--path", "nope.pt"], "--path must be a checkpoint that fairseq-train wrote; there is no file nope.pt"),
        (["--path", str(EXAMPLE / "captions.en")], "captions.en could not be read"),
        (["--length", "1000"], "valid must have at least one sequence of 1000 bytes; it has none"),
    ],
)
def test_what_adaptation_refuses(raw, trained, options, message, monkeypatch, capsys):
    monkeypatch.chdir(REPOSITORY)
    script = str(REPOSITORY / "benchmarks" / "slim_adapt.py")
    monkeypatch.setattr(sys, "argv", [script, str(raw), "--path", str(trained[0] / "checkpoint_last.pt"), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(script, run_name="__main__")
    assert ended.value.code in (1, 2) and message in capsys.readouterr().err


def test_one_step_of_adaptation(raw, trained, tmp_path):
    """benchmarks/slim_adapt.py: whole and sliced steps do the same; and a step that is too large spoils the model."""
    script = [sys.executable, str(REPOSITORY / "benchmarks" / "slim_adapt.py"), str(raw)]
    options = ["--path", str(trained[0] / "checkpoint_last.pt"), "--lr", "0.01,1000", "--slice-length", "7"]
    files = ["--json", str(tmp_path / "adapt.json"), "--subset", "train", "--samples", "3"]
    done = subprocess.run([*script, *options, *files], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "adapt.json").read_text())
    assert report["with"]["whole"] == pytest.approx(report["with"]["slices"], rel=1e-3)
    assert report["with"]["whole"]["0.01"] != report["without"] < report["with"]["whole"]["1000.0"]
    assert f"without a step: {report['without']:.4f}" in done.stdout
