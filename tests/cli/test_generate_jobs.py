"""``fairseq-el generate`` as a job: what it leaves in its journal, and how it goes on."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
from pathlib import Path

import pytest
from command_lines import failed
from tiny_commands import Command
from tiny_data import save_checkpoint

from fairseq_el.cli import main
from fairseq_el.jobs import Job, read_run
from fairseq_el.text import Generator


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return Command(tmp_path_factory.mktemp("work"), 40)


@pytest.fixture
def work(command, tmp_path, monkeypatch):
    """The command in a new directory, with the checkpoints of the first one."""
    monkeypatch.chdir(tmp_path)
    return Command.copied(command, tmp_path)


@pytest.fixture(scope="module")
def finished(command, expected, tmp_path_factory):
    """A finished job in a directory of its own, for what is refused."""
    copy = Command.copied(command, tmp_path_factory.mktemp("finished"))
    assert copy.run_there() == 0
    return copy


@pytest.fixture(scope="module")
def expected(command):
    text = command.undisturbed()
    assert text.count(b"\n") == 40 and b"\n\n" in text
    return text


@pytest.mark.long
class TestResume:
    @pytest.mark.parametrize("batches", [1, 4, 7])
    def test_what_is_done_is_not_decoded_again(self, batches, work, expected, monkeypatch, capsys):
        with monkeypatch.context() as patched:
            write = Job.write
            left = [batches]

            def stop(job, *results):
                write(job, *results)
                left[0] -= bool(results)
                if left[0] == 0:
                    raise KeyboardInterrupt

            patched.setattr(Job, "write", stop)
            assert work.run() == 130
        said = capsys.readouterr().err
        assert said.splitlines()[0].startswith("fairseq-el: note: go on with: fairseq-el generate . --path a.pt")
        assert said.splitlines()[0].endswith(" --resume") and not Path("out.txt").exists()
        (before,) = work.decoded()
        assert 0 < before < 40
        command = shlex.split(said.splitlines()[0].partition("go on with: ")[2])
        assert main(command[1:]) == 0
        assert Path("out.txt").read_bytes() == expected
        assert work.decoded() == [before, 40 - before]

    def test_a_finished_job_loads_no_model(self, work, expected, monkeypatch):
        assert work.run() == 0
        monkeypatch.setattr(Generator, "from_settings", lambda settings: pytest.fail("loaded"))
        for _ in range(2):
            assert work.run("--resume", "--stats", "stats.json", "--force") == 0
            assert Path("out.txt").read_bytes() == expected
            stats = json.loads(Path("stats.json").read_text())
            assert (stats["lines"], stats["lines_before"]) == (0, 40)

    def test_other_batches_and_processes(self, work, expected):
        for index in (2, 0):
            assert work.run("--shard", f"{index}/3") == 0
        options = ["--batch-size", 7, "--window", "all", "--memory", "1GiB", "--resume"]
        assert work.run(*options) == 0
        assert Path("out.txt").read_bytes() == expected

    def test_a_journal_is_there(self, work, capsys):
        assert work.run() == 0
        said = failed(capsys, *work.line("--force", "--shard", "0/2"), "--beam", 4)
        assert "options.beam: 3 before, 4 now" in said
        Path("out.txt").unlink()
        assert "is the journal of a job that has finished: go on with it by --resume" in failed(capsys, *work.line())
        assert work.run("--force") == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (["--beam", "4"], "options.beam: 3 before, 4 now"),
            (["--lenpen", "0.5"], "options.lenpen: 1.0 before, 0.5 now"),
            (["--truncate-source"], "options.truncate_source: false before, true now"),
            (["--format", "jsonl"], "format: "),
            (["--path", "b.pt"], "checkpoints.0: "),
            (["--path", "a.pt:b.pt"], "checkpoints.1: not there before"),
            (["--fp16"], "options.fp16: false before, true now"),
            (["--seed", "7"], "options.seed: 1 before, 7 now"),
        ],
    )
    def test_another_job_is_refused(self, change, message, finished, capsys, monkeypatch):
        work = finished
        monkeypatch.chdir(work.directory)
        said = failed(capsys, *work.line("--resume", *change))
        assert "out.txt.journal has another one:" in said and message in said
        assert "or remove out.txt.journal" in said or "out.txt.journal to start over" in said

    def test_another_model_and_text_under_the_same_names(self, work, capsys):
        assert work.run() == 0
        work.write_input(40, seed=5)
        said = failed(capsys, *work.line("--resume"))
        assert "input.sha256: " in said
        Path("dict.bb.txt").write_text(Path("dict.bb.txt").read_text() + "new 1\n")
        assert "dictionaries." in failed(capsys, *work.line("--resume"))

    def test_a_damaged_part(self, work, expected, caplog):
        assert work.run() == 0
        Path("out.txt").unlink()
        (part,) = Path("out.txt.journal").glob("part-*.jsonl")
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        part.write_bytes(content)
        assert work.run("--resume") == 0
        assert "results are damaged" in caplog.text
        assert Path("out.txt").read_bytes() == expected


class TestFailures:
    def test_lines_that_failed_before_are_named_again(self, work, capsys):
        long = " ".join(["w1"] * 64)
        Path("in.txt").write_text(f"w1\n{long}\nw2\n")
        for options in ([], ["--resume"]):
            assert work.run("--max-failures", 1, *options) == 1
            said = capsys.readouterr().err
            assert "note: line 2 has no output: it has 65 tokens, and the model reads 64" in said
        assert "1 lines have no output, and --max-failures allows 0: 2." in failed(capsys, *work.line("--resume"))
        assert main(["merge", "out.txt.journal"]) == 1
        assert "line 2 has no output" in capsys.readouterr().err

    def test_a_job_that_could_not_begin_leaves_nothing(self, work, capsys):
        Path("in.txt").write_text(" ".join(["w1"] * 64))
        before = sorted(Path().iterdir())
        assert "line 1 is longer than the 64 tokens" in failed(capsys, *work.line())
        assert sorted(Path().iterdir()) == before

    def test_all_problems_at_once(self, work, capsys):
        options = ["--no-journal", "--resume", "--shard", "0/2", "--input", "-"]
        said = failed(capsys, *work.line(*options))
        for message in ("--resume needs a journal", "--shard needs a journal", "--shard needs files"):
            assert message in said
        said = failed(capsys, *work.line("--shard", "env"))
        assert "--shard env needs a launcher that sets RANK and WORLD_SIZE" in said
        assert "--shard must be i/N" in failed(capsys, *work.line("--shard", "3"))
        assert sorted(path.name for path in Path().glob("out*")) == []


@pytest.mark.long
class TestSignals:
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
    def test_a_job_stops_and_goes_on(self, name, work):
        work.write_input(400)
        process = work.start("--batch-size", 1)
        work.wait_for(20, process)
        process.send_signal(getattr(signal, name))
        said = process.communicate()[1]
        assert process.returncode == 3
        error = said.splitlines()[-1]
        assert error.startswith(f"fairseq-el: error: stopped by {name}: ") and " of 400 lines" in error
        assert error.endswith("--resume") and not Path("out.txt").exists()
        (before,) = work.decoded()
        assert main(shlex.split(error.partition("Go on with: ")[2])[1:]) == 0
        assert work.decoded() == [before, 400 - before]
        assert work.run("--no-journal", output="whole") == 0
        assert Path("out.txt").read_bytes() == Path("whole").read_bytes()


def test_an_array_of_slurm(work, expected, monkeypatch, capsys):
    """Tasks in any order, one of them twice."""
    order = [2, 0, 3, 2, 1]
    for task in order:
        for name, value in (("ID", task), ("MIN", 0), ("MAX", 3), ("STEP", 1), ("COUNT", 4)):
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        if task == 1:
            assert "and 10 are missing: 2, 6, 10" in failed(capsys, "merge", "out.txt.journal")
        assert work.run("--shard", "env") == 0
    assert work.decoded() == [10, 10, 10, 10]
    assert main(["merge", "out.txt.journal"]) == 0
    assert Path("out.txt").read_bytes() == expected


def test_a_pipe_with_a_journal(work, expected, capsys):
    """The same lines must come again."""
    lines = Path("in.txt").read_bytes().splitlines(keepends=True)

    def run(content, *options):
        reading, writing = os.pipe()
        os.write(writing, content)
        os.close(writing)
        try:
            return main(work.line("--input", f"/dev/fd/{reading}", *options))
        finally:
            os.close(reading)

    assert run(b"".join([*lines[:20], b"\xff\n"])) == 1
    assert "line 21 of" in capsys.readouterr().err
    assert 0 < sum(work.decoded()) < 21
    changed = [b"w3 w3 w3\n", *lines[1:]]
    assert run(b"".join(changed), "--resume") == 1
    assert "line 1 of" in capsys.readouterr().err
    assert run(b"".join(lines), "--resume") == 0
    assert Path("out.txt").read_bytes() == expected


def test_samples_do_not_depend_on_processes(work):
    options = ["--sampling", "--seed", 5, "--nbest", 3]
    assert work.run(*options, "--no-journal", output="whole") == 0
    for index in random.Random(1).sample(range(3), 3):
        assert work.run(*options, "--shard", f"{index}/3", "--batch-size", 3) == 0
    assert main(["merge", "out.txt.journal"]) == 0
    assert Path("out.txt").read_bytes() == Path("whole").read_bytes()


def test_what_decides_is_in_the_journal(work):
    assert work.run("--lenpen", 0.5) == 0
    run, output = read_run(Path("out.txt.journal"))
    assert output is not None and output.resolve() == Path("out.txt").resolve()
    assert run.fingerprint["options"]["lenpen"] == 0.5 and len(run.fingerprint["checkpoints"]) == 1
    assert len(run.fingerprint["dictionaries"]) == 3 and run.input.lines == 40
    assert "batch_size" not in run.fingerprint["options"] and run.versions["device"] == "cpu"


def test_a_checkpoint_that_was_trained_on(work, capsys):
    assert work.run() == 0
    from tiny import dictionary
    from tiny_data import WORDS

    save_checkpoint(Path("a.pt"), seed=9, words=dictionary(WORDS), source_lang="aa", target_lang="bb")
    assert "checkpoints.0: " in failed(capsys, *work.line("--resume"))
