from __future__ import annotations

import importlib
import io
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from bench.conftest import tiny_gpt  # noqa: F401
from commands import REPOSITORY, USER_DIR

from fairseq_el.cli import main

PROGRAMS = {
    "fairseq-el": "fairseq_el.cli:main",
    "fairseq-preprocess": "fairseq_cli.preprocess:cli_main",
    "fairseq-generate": "fairseq_cli.generate:cli_main",
    "fairseq-interactive": "fairseq_cli.interactive:cli_main",
    "ct2-fairseq-converter": "ctranslate2.converters.fairseq:main",
}


@pytest.fixture
def execute(monkeypatch, capsys):
    """Runs a line of a shell in this process, with < FILE, > FILE and $(cat FILE), and returns what it printed.

    Programs take long to start.
    """

    def run(line: str) -> str:
        line = re.sub(r"\$\(cat (\S+)\)", lambda match: " ".join(Path(match.group(1)).read_text().split()), line)
        words = shlex.split(re.sub(r"(--user.dir) fairseq_el", rf"\1 {USER_DIR}", line))
        files = {mark: words[words.index(mark) + 1] for mark in ("<", ">") if mark in words}
        words = [word for word in words if word not in ("<", ">", *files.values())]
        if "<" in files:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(files["<"]).read_bytes()), "utf-8"))
        if words[0] == "cp":
            shutil.copyfile(words[1], words[2])
        elif words[0] == "python":
            monkeypatch.setattr(sys, "argv", words[1:])
            try:
                runpy.run_path(str(REPOSITORY / words[1]), run_name="__main__")
            except SystemExit as ended:
                assert not ended.code, line
        else:
            monkeypatch.setattr(sys, "argv", words)
            module, _, name = PROGRAMS[words[0]].partition(":")
            assert not getattr(importlib.import_module(module), name)(), line
        printed = capsys.readouterr().out
        if ">" in files:
            Path(files[">"]).write_text(printed, encoding="utf-8")
        return printed

    return run


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """A directory with a tiny BART model, and what it was converted to."""
    import hf_models  # skips the test where transformers is missing

    work = tmp_path_factory.mktemp("bart")
    model = hf_models.build("bart", 4)
    hf_models.save(model, "bart", work / "hf", num_beams=2, max_length=12, min_length=3, early_stopping=True)
    assert main(["convert", "from-hf", str(work / "hf"), "--out", str(work / "fairseq")]) == 0
    return work


@pytest.fixture
def work(saved, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the working directory."""
    for name in ("hf", "fairseq"):
        shutil.copytree(saved / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
