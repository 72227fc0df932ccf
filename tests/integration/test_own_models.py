"""Architectures and tasks of a user's own directory, trained by fairseq-train and decoded with EL-attention."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
from pathlib import Path

import pytest
from commands import LOSE_NO_SENTENCE, assert_same_hypotheses, hypotheses, texts
from tiny_data import fairseq, sentences, write_pairs

from fairseq_el import OptionError, el_attention_enabled
from fairseq_el.cli import main
from fairseq_el.tasks import el_task_for, import_user_directory
from fairseq_el.text import Generator

# IndicTrans' transformer_4x, and a task that begins every output with a word of its own.
THEIRS = """
from dataclasses import dataclass, field

import torch
from fairseq.models import register_model_architecture
from fairseq.models.transformer import base_architecture
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask


@register_model_architecture("transformer", "transformer_4x")
def transformer_4x(args):
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 1536)
    args.encoder_ffn_embed_dim = getattr(args, "encoder_ffn_embed_dim", 4096)
    args.encoder_layers = getattr(args, "encoder_layers", 6)
    args.encoder_attention_heads = getattr(args, "encoder_attention_heads", 16)
    args.decoder_embed_dim = getattr(args, "decoder_embed_dim", 1536)
    args.decoder_ffn_embed_dim = getattr(args, "decoder_ffn_embed_dim", 4096)
    args.decoder_layers = getattr(args, "decoder_layers", 6)
    args.decoder_attention_heads = getattr(args, "decoder_attention_heads", 16)
    base_architecture(args)


@dataclass
class TheirConfig(TranslationConfig):
    first_word: str = field(default="w1", metadata={"help": "every output begins with it"})


@register_task("their_translation", dataclass=TheirConfig)
class TheirTask(TranslationTask):
    def build_model(self, cfg):  # as tasks had it before fairseq 0.12
        return super().build_model(cfg)

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        first = self.target_dictionary.index(self.cfg.first_word)
        prefix_tokens = torch.full((len(sample["id"]), 1), first)
        return super().inference_step(generator, models, sample, prefix_tokens, constraints)
"""
# The same, edited: it loads this package, and its task is mixed with ELTask.
EDITED = (
    THEIRS.replace("transformer_4x", "edited_4x").replace("their_translation", "edited_translation")
    + """

import fairseq_el  # noqa: E402
from fairseq_el.tasks import ELOptions, ELTask  # noqa: E402


@dataclass
class ELTheirConfig(ELOptions, TheirConfig):
    pass


@register_task("el_edited_translation", dataclass=ELTheirConfig)
class ELEditedTask(ELTask, TheirTask):
    pass
"""
).replace("TheirTask", "EditedTask")
TINY = ["--encoder-layers", "1", "--decoder-layers", "2", "--encoder-attention-heads", "2"]
TINY += ["--decoder-attention-heads", "2", "--max-source-positions", "64", "--max-target-positions", "64"]
TINY += [f"--{side}-{kind}embed-dim={16}" for side in ("encoder", "decoder") for kind in ("", "ffn-")]
PAIR = ["-s", "aa", "-t", "bb"]
SENTENCES = 7


@pytest.fixture(scope="module", autouse=True)
def quiet_and_sys_path_as_before():
    before = list(sys.path)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    sys.path[:] = before


@pytest.fixture(scope="session")  # fairseq imports a directory of a name once in a process
def work(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("own")
    for name, text in (("theirs_of_own_models", THEIRS), ("edited_of_own_models", EDITED)):
        (work / name).mkdir()
        (work / name / "__init__.py").write_text(text)
    write_pairs(work, {"train": 40, "test": SENTENCES, "valid": 2})
    return work


@pytest.fixture(scope="session")
def theirs(work) -> Path:
    return work / "theirs_of_own_models"


def train(work, user_dir, arch, task):
    directory = work / arch
    with contextlib.redirect_stderr(io.StringIO()):
        fairseq(
            *["train", work / "data", "--user-dir", user_dir, "--arch", arch, "--task", task, *PAIR, *TINY],
            *["--optimizer", "adam", "--lr", 0.01, "--max-tokens", 300, "--max-update", 20, "--save-dir", directory],
            *["--disable-validation", "--no-epoch-checkpoints", "--log-format", "none"],
            plugin=False,
        )
    return directory / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def model(work, theirs) -> Path:
    return train(work, theirs, "transformer_4x", "their_translation")


def by_stock(work, model, user_dir, task, *options):
    given = [work / "data", "--path", model, "--user-dir", user_dir, "--task", task, *PAIR, *options]
    return fairseq("generate", *given, *LOSE_NO_SENTENCE, plugin=False)


@pytest.mark.parametrize("task", ["el_translation", "el_edited_translation"])
def test_a_directory_that_also_imports_this_package(work, task):
    directory = work / "edited_of_own_models"
    stock_task = task.replace("el_", "", 1)
    model = work / "edited_4x" / "checkpoint_last.pt"
    if not model.exists():
        train(work, directory, "edited_4x", "edited_translation")
    options = ["--beam", 3, "--nbest", 2]
    expected = by_stock(work, model, directory, stock_task, *options)
    found = by_stock(work, model, directory, task, *options, "--el-backend", "shared-kv")
    assert_same_hypotheses(found, expected, SENTENCES)
    begins = [line.startswith("w1") for _, line in texts(found, "H")]
    assert all(begins) or task == "el_translation"


def test_generate_with_nothing_edited(work, theirs, model, tmp_path):
    """Architecture and task are theirs: the checkpoint names them, and stock fairseq decodes the same."""
    lines = sentences(SENTENCES, seed=1)  # those of the split test
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in lines))
    given = ["generate", work / "data", "--path", model, "--user-dir", theirs, "--cpu", "--quiet", "--beam", "3"]
    files = ["--input", tmp_path / "in.txt", "--output", tmp_path / "out.txt", "--format", "fairseq", "--no-journal"]
    assert main([*map(str, given), *map(str, files)]) == 0
    expected = by_stock(work, model, theirs, "their_translation", "--beam", 3, "--batch-size", 1)
    assert_same_hypotheses((tmp_path / "out.txt").read_text(), expected, SENTENCES)
    assert all(tokens.startswith("w1") for each in hypotheses(expected).values() for _, tokens in each)


def test_in_python_with_an_option_of_their_task(work, theirs, model):
    given = [str(work / "data"), "--path", str(model), "--user-dir", str(theirs), "--cpu"]
    generator = Generator.from_arguments([*given, "--first-word", "w7", "--el-backend", "shared-kv"])
    assert type(generator.loaded.task).__mro__[1].__name__ == "ELTask"
    assert el_attention_enabled(generator.loaded.models)
    results = list(generator.stream(sentences(4, seed=1)))
    assert all(result.hypotheses[0].words.split()[0] == "w7" for result in results)
    assert el_task_for("their_translation") == el_task_for("el_their_translation") == "el_their_translation"
    assert el_task_for("translation") == "el_translation" and el_task_for("nobody_s") == "nobody_s"


@pytest.mark.long
def test_verify(work, theirs, model, capsys):
    assert main(["verify", str(work / "data"), "--path", str(model), "--user-dir", str(theirs), *PAIR, "--cpu"]) == 0
    assert f"All hypotheses of {SENTENCES} sentences are the same in stock and EL" in capsys.readouterr().out


@pytest.mark.long
def test_bench(work, theirs, model, capsys):
    command = ["bench", str(work / "data"), "--path", str(model), *PAIR, "--methods", "stock,el", "--batch", "2"]
    command += ["--runs", "1", "--tgt-len", "4", "--threads", "1"]
    assert main([*command, "--user-dir", str(theirs)]) == 0
    assert "el@fp32" in capsys.readouterr().out
    assert main([*command, "--user-dir", "not_there"]) == 2
    assert "--user-dir must be a directory with a Python package; there is no directory not_there" in (
        capsys.readouterr().err
    )


def test_other_commands(theirs, model, capsys):
    of_plan = ["--beam", "4", "--src-len", "9", "--tgt-len", "9", "--dtype", "fp32", "--memory", "64GiB"]
    assert main(["plan", "--path", str(model), *of_plan]) == 0
    arch = ["--arch", "transformer_4x", "--vocab-size", "1000", "--user-dir", str(theirs)]
    assert main(["plan", *arch, *of_plan]) == 0
    assert main(["convert", "info", str(model)]) == 0
    assert "transformer_4x" in capsys.readouterr().out


DIRECTORIES = {
    "not_there": (None, "must be a directory with a Python package; there is no"),
    "without_init": ({}, "must have an __init__.py, which registers architectures and tasks; .*without_init has none"),
    "raises_of_own_models": ({"__init__.py": "x = 1\nraise ValueError('no such thing')"}, "ValueError: no such thing"),
    "ends_of_own_models": ({"__init__.py": "import sys\nsys.exit('bye')"}, "in line 2 of .*: SystemExit: bye"),
    "syntax_of_own_models": ({"__init__.py": "def :"}, "SyntaxError: .*. Mend it, or leave it out"),
    "lacks_of_own_models": ({"__init__.py": "import nowhere_at_all"}, "No module named 'nowhere_at_all'"),
    "reads_of_own_models": ({"__init__.py": "open('nowhere')"}, "reads_of_own_models fails.*No such file"),
    "clash_of_own_models": (
        {
            "__init__.py": "from fairseq.models import register_model_architecture\n"
            "register_model_architecture('transformer', 'transformer')(lambda args: None)"
        },
        "in line 2 of .*: ValueError: Cannot register duplicate model architecture .*. Choose another name",
    ),
    "json": ({"__init__.py": ""}, "is not globally unique. Please rename the directory"),
}


@pytest.mark.parametrize("name", DIRECTORIES)
def test_directories_that_can_not_be_imported(name, tmp_path):
    files, message = DIRECTORIES[name]
    if files is not None:
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    with pytest.raises(OptionError, match=f"(?s)--user-dir.*{message}") as error:
        import_user_directory(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "theirs.py").write_text("")
    with pytest.raises(OptionError, match=re.escape("theirs.py is a file")):
        import_user_directory(str(tmp_path / "theirs.py"))
