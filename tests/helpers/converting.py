"""``fairseq-el convert`` in this process: what it prints, or its error."""

from __future__ import annotations

from fairseq_el.cli import main


def convert(capsys, *arguments) -> str:
    assert main(["convert", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def error(capsys, *arguments) -> str:
    try:
        assert main(["convert", *map(str, arguments)]) != 0
    except SystemExit as exit_:
        assert exit_.code == 2
    return capsys.readouterr().err
