"""The command line as a whole: commands, subcommands, and old spellings."""

from __future__ import annotations

import pytest

from fairseq_el.cli import main


@pytest.mark.parametrize(
    ("arguments", "program"),
    [
        (["--nonsense"], "fairseq-el"),
        (["nonsense"], "fairseq-el"),
        (["plan", "--nonsense"], "fairseq-el plan"),
        (["score", "text", "--nonsense"], "fairseq-el score"),
        (["convert"], "fairseq-el convert"),
        (["convert", "nonsense"], "fairseq-el convert"),
        (["convert", "strip"], "fairseq-el convert strip"),
        (["convert", "strip", "model.pt", "--out", "new.pt", "--nonsense"], "fairseq-el convert strip"),
        (["convert", "info", "model.pt", "more"], "fairseq-el convert info"),
    ],
)
def test_an_error_advises_the_help_of_the_command_that_was_called(arguments, program, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fairseq-el: error: ")
    assert line.endswith(f". Try: {program} --help")


@pytest.mark.parametrize("name", ["slim", "topk"])
def test_a_data_directory_may_have_the_name_of_a_benchmark(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert main(["bench", name, "--path", "nowhere.pt"]) == 2
    assert "nowhere.pt does not exist" in capsys.readouterr().err
