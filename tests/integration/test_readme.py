"""Every command that the README and docs/decode.md show, as it stands there; and docs/install.md."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from commands import EXAMPLE, REPOSITORY, USER_DIR, run, texts
from tiny import dictionary
from tiny_data import write_pairs
from tiny_multilingual import save_multilingual
from tiny_speech import train, write_speech

MODEL = EXAMPLE / "model.pt"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "docs" / "decode.md"]
INSTALLATION = REPOSITORY / "docs" / "install.md"


def commands_of(*pages: Path) -> list[str]:
    """The lines of their blocks of shell commands, without comments, each once."""
    blocks = [block for page in pages for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.S)]
    return list(dict.fromkeys(re.sub(r" +#.*", "", line) for block in blocks for line in block.splitlines()))


COMMANDS = commands_of(*PAGES)
RUN_ELSEWHERE = {  # by what: a script, or the test of a page that shows the same line
    "make demo": ".ci/run",
    "make test": ".ci/run",  # as a part of make check
    "scripts/recipe.sh configs/demo.yaml": "tests/integration/test_recipe_documentation.py",
    "fairseq-el convert from-hf bart --out bart.fairseq --verify": "tests/cli/test_docs_convert.py",
}
RUN_HERE = [
    *(
        "el generate",
        "generate DATA --path model.pt --user-dir fairseq_el --task el_translation",
        "el_multilingual_translation",
        "el_speech_to_text",
        "interactive",
        "el plan",
        "el bench",
        "el verify",
        "el score",
        "el convert strip",
        "compare.py",
    ),
]


def command(kind: str) -> str:
    (found,) = [line for line in COMMANDS if kind in re.sub("^fairseq-", "", line)]
    return found


def run_line(line: str, directory, **replaced: str) -> str:
    """Runs a command of fairseq or of this package, with < FILE, and returns what it printed."""
    line, _, file = line.partition(" < ")
    program, *arguments = shlex.split(line)
    replaced.update({"fairseq_el": USER_DIR})
    stdin = (directory / file).read_text(encoding="utf-8") if file else ""
    arguments = [replaced.get(argument, argument) for argument in arguments]
    return run(program[len("fairseq-") :], *arguments, cwd=directory, stdin=stdin).stdout


@pytest.fixture
def directory(tmp_path, data):
    """A directory with ``DATA``, ``model.pt`` and ``checkpoint_best.pt``."""
    (tmp_path / "DATA").symlink_to(data)
    for name in ("model.pt", "checkpoint_best.pt"):
        shutil.copy(MODEL, tmp_path / name)
    return tmp_path


def test_every_command_has_its_test():
    assert {line for line in COMMANDS if line in RUN_ELSEWHERE} == RUN_ELSEWHERE.keys()
    here = sorted(command(kind) for kind in RUN_HERE)
    assert here == sorted(line for line in COMMANDS if line not in RUN_ELSEWHERE)
    for line, where in RUN_ELSEWHERE.items():
        text = (REPOSITORY / where).read_text(encoding="utf-8")
        shown = [REPOSITORY / "docs" / page for page in re.findall(r'"docs" / "(\w+\.md)"', text)]
        assert line.replace("make test", "make check") in text or any(line in page.read_text("utf-8") for page in shown)


def test_generate_and_score(directory):
    generate = command("generate DATA --path model.pt --user-dir fairseq_el --task el_translation")
    assert len(texts(run_line(generate, directory), "H")) == 40
    output = run_line(f"{generate} --post-process sentencepiece", directory)  # scores are of words
    (directory / "output.txt").write_text(output, encoding="utf-8")
    assert run_line(command("el score"), directory).startswith("40 sentences\n")


def test_text_in_text_out(directory):
    shutil.copy(EXAMPLE / "spm.model", directory)
    captions = (EXAMPLE / "captions.de").read_text(encoding="utf-8").splitlines()[:40]
    (directory / "in.txt").write_text("\n".join([*captions, ""]), encoding="utf-8")
    run_line(command("el generate"), directory)
    assert len((directory / "out.txt").read_text(encoding="utf-8").splitlines()) == 40


def test_several_languages(tmp_path):
    data = write_pairs(tmp_path / "pairs", {"train": 2, "test": 5}, "de", "en")
    dictionary().save(str(data / "dict.fr.txt"))
    (tmp_path / "DATA").symlink_to(data)
    save_multilingual(tmp_path / "model.pt", data, pairs="de-en,fr-en")
    assert len(texts(run_line(command("el_multilingual_translation"), tmp_path), "H")) == 5


def test_speech(tmp_path):
    data = write_speech(tmp_path / "DATA", {"train": 60, "valid": 2, "test": 3})
    train(data, "s2t_transformer", tmp_path, 1).rename(tmp_path / "model.pt")
    assert len(texts(run_line(command("el_speech_to_text"), tmp_path), "H")) == 3


@pytest.mark.skipif(int(numpy.__version__.split(".")[0]) >= 2, reason="fairseq's language models need numpy 1")
def test_interactive(language_model, tmp_path):
    (tmp_path / "DATA").symlink_to(language_model / "data-bin")
    shutil.copy(language_model / "checkpoint_last.pt", tmp_path / "lm.pt")
    (tmp_path / "prompts.txt").write_text("a man in a\na woman in\n", encoding="utf-8")
    written = texts(run_line(command("interactive"), tmp_path), "D")
    assert [text.startswith(prompt) for (_, text), prompt in zip(written, ("a man in a", "a woman in"))] == [True, True]


@pytest.mark.long
def test_plan(directory):
    assert "--batch-size" in run_line(command("el plan"), directory)


@pytest.mark.long
def test_bench(directory):
    printed = run_line(command("el bench"), directory)
    assert all(method in printed for method in ("stock@fp32", "el@fp32", "auto@bf16"))


@pytest.mark.long
def test_verify_what_strip_wrote(directory):
    (directory / "model.pt").unlink()
    assert run_line(command("el convert strip"), directory).startswith("model.pt: ")
    assert run_line(command("el verify"), directory).startswith("All hypotheses of 40 sentences are the same")


@pytest.mark.long
def test_compare(directory):
    program, *arguments = shlex.split(command("compare.py"))
    assert program == ".venv/bin/python"
    arguments[0] = str(REPOSITORY / arguments[0])
    process = subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    assert "EL, shared-kv" in process.stdout


def packages(commands: list[str]) -> dict[str, str]:
    """What pip is asked for, with the version where it is an exact one."""
    words = [word for line in commands for word in shlex.split(line.partition(" #")[0])]
    found = (re.match(r"([a-z][\w-]*)(?:==([\w.]+))?", word) for word in words if word not in ("pip", "install"))
    return {match[1]: match[2] or "" for match in found if match}


@pytest.mark.parametrize("number", [0, 1], ids=["3.11", "3.8"])
def test_installing_by_hand_takes_what_the_script_takes(number):
    blocks = re.findall(r"^## Install by hand.*?\n```sh\n(.*?)```", INSTALLATION.read_text("utf-8"), re.M | re.S)
    assert len(blocks) == 2
    by_hand = packages(blocks[number].splitlines())
    script = (REPOSITORY / "scripts" / "install.sh").read_text(encoding="utf-8").partition("-ge 11 ]; then\n    pip")[2]
    of_python, common = script.partition("\nfi\n")[::2]
    lines = [*of_python.split("\nelse\n")[number].splitlines(), *common.splitlines()]
    scripted = packages([line for line in lines if line.strip().startswith(("pip install", "install"))])
    assert by_hand.pop("torch")  # the script chooses it, by the card
    by_hand.pop("numpy")
    assert by_hand.items() <= scripted.items()
