"""The benchmarks of a card, on a CPU with tiny sizes: batches, steps, and what they refuse."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import card_check
import card_limit
import card_tables
import pytest
import step_graph
import step_launches
import torch
from commands import REPOSITORY

from fairseq_el._compat import torch_version
from fairseq_el.errors import OutOfMemoryError

pytestmark = pytest.mark.long

TINY = [
    "--layers",
    2,
    "--heads",
    4,
    "--width",
    32,
    "--vocab-size",
    40,
    "--src-len",
    9,
    "--nodes",
    12,
    "--dtype",
    "fp32",
]


def printed(capsys, program, *arguments):
    assert program.main(list(map(str, [*arguments, "--device", "cpu"]))) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def of(bart, *options):
    return [bart.data, "--path", bart.path, "--src-len", 9, *options]


@pytest.mark.parametrize("method", card_limit.METHODS)
def test_batches_that_fit(method, tiny_bart, capsys):
    lines = printed(capsys, card_limit, *of(tiny_bart, "--method", method, "--batches", "8,3", "--tgt-len", 4))
    assert [line[1] for line in lines[-2:]] == ["3", "8"] and all(line[4] == "s" or line[4] for line in lines[-2:])


@pytest.mark.parametrize("error", [OutOfMemoryError("halved"), RuntimeError("CUDA out of memory")])
def test_the_first_batch_that_does_not_fit_is_the_last(error, tiny_bart, capsys, monkeypatch):
    decode = card_limit.FairseqProgram.decode

    def limited(self, words):
        if self._samples[0]["id"].numel() > 3:
            raise error
        return decode(self, words)

    monkeypatch.setattr(card_limit.FairseqProgram, "decode", limited)
    lines = printed(capsys, card_limit, *of(tiny_bart, "--batches", "3,5,8", "--tgt-len", 4))
    assert " ".join(lines[-1]) == "| 5 | did not fit | - | - | - |" and lines[-2][1] == "3"


def test_launches_of_a_step(tiny_bart, capsys):
    lines = printed(capsys, step_launches, *of(tiny_bart, "--batches", 2, "--tgt-lens", "2,6", "--runs", 1))
    cells = [cell.strip() for cell in " ".join(lines[-1]).strip("|").split("|")]
    assert cells[0] == "2" and int(cells[3]) > 50


def test_a_step_from_python(capsys):
    lines = printed(capsys, step_graph, *TINY, "--batches", "1,2")
    assert [line[1] for line in lines[-2:]] == ["1", "2"] and "graph" in lines[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_a_step_from_a_graph(capsys):
    assert step_graph.main([*map(str, TINY), "--batches", "1", "--device", "cuda"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].count("ms") == 4


def test_attention_over_lengths(capsys):
    lines = printed(capsys, step_graph, *TINY, "--batches", 2, "--lengths", "7,8")
    assert [line[1:4:2] for line in lines[-2:]] == [["2", "7"], ["2", "8"]]


def rows_of(capsys, *arguments):
    options = ["--tiny", "--dtype", "fp32", "--runs", "1", "--fewer", "30", "--device", "cpu", *arguments]
    assert card_tables.main(options) == 0
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:1] == "|"]
    return [line for line in lines if line[0] not in ("batch", "---")]


@pytest.mark.parametrize("table", ["cnndm,greedy", "diverse", "squad", "gpt2"])
def test_tables_of_all_methods(table, capsys):
    rows = rows_of(capsys, "--tables", table, "--batches", "2,3")
    methods = list(card_tables.METHODS)
    assert [row[:2] for row in rows[:5]] == [["3", method] for method in methods]
    assert rows[0][4] == "1.00"
    assert len(rows) == 10 * len(table.split(",")) and all(row[2].endswith(" s") for row in rows)


def test_the_largest_batch_is_made_smaller_until_it_fits(capsys, monkeypatch):
    """Ratios are to stock at its own largest batch; what cannot fit is not tried."""
    decode = card_tables.FairseqProgram.decode

    def limited(self, words):
        if self.method.kind == "stock" and self._samples[0]["id"].numel() > 3:
            raise RuntimeError("CUDA out of memory")
        return decode(self, words)

    monkeypatch.setattr(card_tables.FairseqProgram, "decode", limited)
    limit = ["--memory", "900MiB", "--overhead", "899MiB", "--methods", "stock,el", "--batches", "9"]
    rows = rows_of(capsys, "--tables", "cnndm", *limit)
    tried = [row for row in rows[:-2] if row[1] == "stock"]
    assert tried[-1][0] == "3 (largest)" and tried[-1][4] == "1.00" and tried[0][2] == "did not fit"
    assert rows[-3][0].endswith(" (largest)") and rows[-3][1] == "el" and float(rows[-3][4]) > 0
    assert ["9", "stock", "did not fit", "-", "-", "-", "-"] in rows[-2:]
    assert rows_of(capsys, "--tables", "cnndm", *limit, "--most", "2")[0][:2] == ["2 (most tried)", "stock"]


def test_nothing_begins_when_time_is_up(capsys, monkeypatch):
    clock = SimpleNamespace(monotonic=itertools.count(step=40).__next__)
    monkeypatch.setattr(card_tables, "time", clock)
    assert rows_of(capsys, "--tables", "cnndm,gpt2", "--seconds", "30", "--batches", "2") == []


def test_tables_are_named(capsys):
    with pytest.raises(SystemExit):
        card_tables.main(["--tables", "cnndm,wmt"])
    assert "must be names out of cnndm, greedy, xsum, diverse, squad" in capsys.readouterr().err


def findings(capsys, *arguments):
    status = card_check.main([*arguments, "--few", "--device", "cpu"])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("stage", card_check.STAGES)
@pytest.mark.skipif(torch_version() < (2, 1), reason="unfused attention with a scale needs torch 2.1")
def test_the_stages_of_the_check(stage, capsys):
    status, found = findings(capsys, stage)
    assert status == 0 and found and all(finding["stage"] == stage for finding in found)
    assert not any(finding.get("wrong") for finding in found)


@pytest.mark.parametrize("broken", [lambda x: x * 1.1, lambda x: x.fill_(float("nan"))], ids=["wrong", "nan"])
def test_a_stage_that_finds_something(broken, capsys, monkeypatch):
    right = card_check.kv_attention
    monkeypatch.setattr(card_check, "kv_attention", lambda *more: broken(right(*more)))
    status, found = findings(capsys, "attention")
    assert status == 1 and all(finding["wrong"] for finding in found)


@pytest.mark.parametrize("checks", [False, True])
def test_rows_behind_the_tokens_are_noticed(checks):
    """What fairseq's kernel does, in Python; ``checks``: one that would look at the number of rows."""

    def forward(tokens, scores, num_sentences, step, beam_size, ngram_size):
        rows = tokens.size(0) if checks else num_sentences * beam_size
        seen = torch.as_strided(tokens, (rows, tokens.size(1)), tokens.stride(), 0)
        for row in range(rows):
            words = seen[row].tolist()
            for i in range(step - ngram_size + 2):
                if words[i : i + 2] == words[step - 1 : step + 1]:
                    scores[row, words[i + 2]] = float("-inf")
        return scores

    found = card_check.read_behind(forward, "cpu")
    assert found["wrong"] is not checks and found["rows_that_it_changed"] == ([] if checks else [2, 3, 4, 5, 6, 7])


@pytest.mark.skipif(torch_version() < (2, 1), reason="the check needs torch 2.1")
def test_indices_are_looked_at():
    with pytest.raises((IndexError, RuntimeError)), card_check._IndexCheck() as check:
        torch.arange(3).index_select(0, torch.tensor([1, 3]))
    assert check.count == 1 and check.wrong[0]["high"] == check.wrong[0]["size"] == 3


def test_the_script_of_the_check():
    """Every line is a finding."""
    script = str(REPOSITORY / "benchmarks" / "card_check.sh")
    environment = {**os.environ, "PYTHON": sys.executable}
    process = subprocess.run([script, "--cpu"], capture_output=True, text=True, check=False, env=environment)
    lines = [json.loads(line) for line in process.stdout.splitlines()]
    assert process.returncode == 0 and len([line for line in lines if line.get("status") == 0]) == 9
    assert subprocess.run([script, "--gpu"], capture_output=True, check=False).returncode == 2


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        (step_graph, ["--heads", "3"], "--width must be a multiple of --heads; got 1024 and 3"),
        (step_graph, ["--nodes", "2"], "--nodes must be at least --beam; got 2 and 4"),
        (card_tables, ["--memory", "1MiB", "--device", "cpu"], "--memory must be more than --overhead, 600 MiB"),
        (
            step_launches,
            ["data", "--path", "x", "--tgt-lens", "4,4"],
            "a smaller and a larger number of words; got 4,4",
        ),
    ],
)
def test_what_is_refused(program, options, message, capsys):
    assert program.main(options) == 2
    assert message in capsys.readouterr().err
