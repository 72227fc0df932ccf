"""``fairseq-el merge`` and ``fairseq-el progress``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_jobs
from command_lines import failed
from tiny_jobs import decode, expected

from fairseq_el.cli import main
from fairseq_el.jobs import Share


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """The working directory, with two of three shares of 40 lines decoded."""
    monkeypatch.chdir(tmp_path)
    tiny_jobs.write_input(Path("in.txt"), 40)
    for index in (2, 0):
        decode(Path(), share=Share(index, 3))
    return tmp_path


class TestMerge:
    def test_lines_are_missing(self, work, capsys):
        said = failed(capsys, "merge", "out.txt.journal")
        assert "out.txt.journal must have results for 40 lines, and 13 are missing: 2, 5, 8, 11" in said
        assert main(["merge", "out.txt.journal"]) == 1 and not Path("out.txt").exists()
        capsys.readouterr()
        assert main(["merge", "out.txt.journal", "--if-complete"]) == 0 and not Path("out.txt").exists()
        assert capsys.readouterr().err.startswith("fairseq-el: note: out.txt.journal must have results for 40 lines")

    def test_all_are_there(self, work, capsys):
        decode(Path(), share=Share(1, 3))
        for _ in range(2):
            assert main(["merge", "out.txt.journal"]) == 0
            assert Path("out.txt").read_bytes() == expected(40)
        assert capsys.readouterr() == ("", "")

    def test_a_journal_that_was_moved_with_its_output(self, work):
        decode(Path(), share=Share(1, 3))
        Path("elsewhere").mkdir()
        Path("out.txt.journal").rename("elsewhere/out.txt.journal")
        assert main(["merge", "elsewhere/out.txt.journal"]) == 0
        assert Path("elsewhere/out.txt").read_bytes() == expected(40)

    def test_another_file_and_format(self, work, capsys):
        decode(Path(), share=Share(1, 3))
        arguments = ["merge", "out.txt.journal", "--output", "other", "--format", "jsonl"]
        assert main(arguments) == 0 and Path("other").read_bytes() == expected(40, "jsonl")
        Path("other").write_text("mine")
        assert "other exists already, and is not what this job writes" in failed(capsys, *arguments)
        assert Path("other").read_text() == "mine"
        assert main([*arguments, "--force"]) == 0 and Path("other").read_bytes() == expected(40, "jsonl")

    def test_to_standard_output(self, work, capfdbinary):
        decode(Path(), share=Share(1, 3))
        assert main(["merge", "out.txt.journal", "--output", "-"]) == 0
        assert capfdbinary.readouterr().out == expected(40) and not Path("out.txt").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["in.txt"], "in.txt must be a journal of fairseq-el generate; it has no run.json"),
            (["nothing"], "nothing must be a journal of fairseq-el generate"),
            (["out.txt.journal", "--output", "out.txt.journal"], "must name a file; out.txt.journal is a directory"),
            (["out.txt.journal", "--output", "no/out"], "must be in a directory that exists"),
            (["out.txt.journal", "--format", "xml"], "invalid choice: 'xml'"),
        ],
    )
    def test_refused(self, arguments, message, work, capsys):
        assert message in failed(capsys, "merge", *arguments)


class TestProgress:
    def test_for_a_person(self, work, capsys):
        assert main(["progress", "out.txt.journal"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "done       27 of 40 lines (67.5%)" and lines[-1] == "workers    2 finished"

    def test_for_programs(self, work, capsys):
        assert main(["progress", "out.txt.journal", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["done"], found["total"], [one["worker"] for one in found["workers"]]) == (27, 40, ["0", "2"])

    def test_no_journal(self, work, capsys):
        assert "must be a journal of fairseq-el generate" in failed(capsys, "progress", "in.txt")
