"""Every command of docs/convert.md, in its order. Programs run in this process, because each takes long to start."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import hf_models
import torch
from commands import EXAMPLE, REPOSITORY, bundled_pieces

PAGE = (REPOSITORY / "docs" / "convert.md").read_text(encoding="utf-8")
# Commands of M2M-100 need its tokenizer: test_convert_hf_text.py runs them.
M2M = PAGE[PAGE.index("## Translate with M2M-100") : PAGE.index("## Generation defaults")]


def commands_of(pattern: str, page: str = PAGE.replace(M2M, "")) -> list[str]:
    text = page.replace("\\\n", " ")
    return [" ".join(line.split()) for line in re.findall(pattern, text, re.M)]


def test_the_commands_at_the_top_and_those_of_a_model_of_hugging_face(tmp_path, monkeypatch, execute):
    monkeypatch.chdir(tmp_path)
    for name in ("model.pt", "checkpoint_best.pt", "checkpoint8.pt", "checkpoint9.pt"):
        shutil.copy(EXAMPLE / "model.pt", name)
    hf_models.save(hf_models.build("bart", 4), "bart", tmp_path / "bart", num_beams=2, max_length=12)
    (tmp_path / "test.txt").write_text("AB the\nC\n", encoding="utf-8")
    commands = commands_of("^    ((?:fairseq-|cp ).*)$")
    kinds = ["info", "strip", "strip", "to-el", "to-stock", "from-hf", "to-hf"]
    assert [command.split()[2] for command in commands[:7]] == kinds
    printed = [execute(command) for command in commands]
    assert "\n".join(" ".join(command.split()) for command in commands[7:]) in printed[5]  # as it prints them itself
    assert [len(re.findall("^D-", printed[number], re.M)) for number in (7, -1)] == [2, 2]
    one, other = (torch.load(name)["model"] for name in ("model.pt", "stock.pt"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_commands_of_the_table(tmp_path, monkeypatch, execute):
    """On two bundled sentences; those of CTranslate2 where it is installed."""
    monkeypatch.chdir(tmp_path)
    for language in ("de", "en"):
        (tmp_path / f"test.{language}").write_text(bundled_pieces(language, 2), encoding="utf-8")
    dictionaries = f"--srcdict {EXAMPLE / 'dict.de.txt'} --tgtdict {EXAMPLE / 'dict.en.txt'}"
    execute(f"fairseq-preprocess -s de -t en --testpref test {dictionaries} --destdir DATA")
    for name in ("model.pt", "stock.pt"):
        shutil.copy(EXAMPLE / "model.pt", name)
    commands = commands_of("^((?:fairseq-|python |ct2-).*)$")
    assert len(commands) == 9
    if importlib.util.find_spec("ctranslate2") is None:
        commands = [command for command in commands if "ct2" not in command]
    printed = "".join(map(execute, commands))
    mine, theirs = re.findall(r"^BLEU +([\d.]+)", printed, re.M)
    assert theirs == mine
    if Path("ct2").exists():
        assert Path("ct2.txt").read_text(encoding="utf-8") == Path("hf.txt").read_text(encoding="utf-8")
