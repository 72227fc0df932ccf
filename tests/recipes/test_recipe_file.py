"""The YAML files of recipes."""

from __future__ import annotations

import re

import pytest
import yaml
from commands import REPOSITORY

from fairseq_el.cli import main
from fairseq_el.errors import FairseqElError
from fairseq_el.recipes import read_recipe

ALL_CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
CONFIGS = [path for path in ALL_CONFIGS if not path.stem.startswith("slim_")]  # those are of scripts/train_slim.sh
DEMO = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text("utf-8"))
DECODING = {
    "xsum": ("translation", 6, 1024, {"lenpen": 1.0, "max_len_b": 60, "min_len": 10, "no_repeat_ngram_size": 3}),
    "cnndm": ("translation", 4, 1024, {"lenpen": 2.0, "max_len_b": 140, "min_len": 55, "no_repeat_ngram_size": 3}),
    "squad_qg": ("translation", 4, 512, {"lenpen": 1.0, "max_len_b": 200}),
    "gpt2_cnndm": ("language_modeling", 4, 512, {"max_len_b": 200}),
    "gpt2_medium_cnndm": ("language_modeling", 4, 512, {"max_len_b": 200}),
    "wmt": ("translation", 5, 1024, {"max_len_b": 200}),
    "demo": ("translation", 5, 1024, {"max_len_b": 200}),
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_settings_of_the_experiments(path):
    recipe = read_recipe(path)
    task, beam, max_source, decoding = DECODING[path.stem]
    assert (recipe.task, recipe.max_source) == (task, max_source)
    assert recipe.decoding == {"beam": beam, **decoding}
    assert recipe.begin == (path.stem in ("xsum", "cnndm"))
    assert set(DECODING) == {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", ALL_CONFIGS, ids=lambda path: path.stem)
def test_no_path_is_absolute(path):
    assert not re.search(r"(^|[\s\"'\[{:,])/\w", path.read_text("utf-8"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beams": 4}, "beams is not known; known are batch_size, begin, bpe, checkpoint"),
        ({"decoding": {"beam": 4, "max_len_b": 9, "no_repeat": 3}}, "decoding.no_repeat is not known; known are beam,"),
        ({"decoding": {"beam": "4", "max_len_b": 9}}, "decoding.beam must be a whole number; got '4'"),
        ({"decoding": {"beam": 4}}, "decoding.max_len_b is needed"),
        ({"decoding": [4]}, "decoding must be a mapping; got a list"),
        ({"task": "summarization"}, "task must be one of translation, language_modeling; got 'summarization'"),
        ({"task": None}, "task must be a text; got None"),
        (
            {"bpe": {"name": "wordpiece"}},
            "bpe.name must be one of gpt2, sentencepiece, el_pieces, split; got 'wordpiece'",
        ),
        ({"bpe": {"name": "sentencepiece"}}, "bpe.model is needed"),
        ({"bpe": {"name": "gpt2", "model": "spm.model"}}, "bpe.model is not known; known are encoder, name, vocab"),
        ({"text": "captions.de"}, "text must be a list of two texts, of source and target; got 'captions.de'"),
        ({"dictionary": 3}, "dictionary must be a text or a list of two texts"),
        ({"checkpoint": "other.pt"}, "files must say where other.pt comes from"),
        ({"max_source": 0}, "max_source must be at least 3; got 0"),
        ({"begin": "yes please"}, "begin must be true or false; got 'yes please'"),
        ({"dtype": "int4"}, "dtype must be one of .*fp32.*; got 'int4'"),
        ({"task": "language_modeling", "begin": True}, "begin is for models with an encoder"),
        ({"prompt_end": "TL;DR:"}, "prompt_end is for task language_modeling"),
        ({"files": {"model.pt": {"url": "https://a.b/c"}}}, "model.pt must have both url and sha256"),
        ({"files": {"model.pt": {"url": "https://a.b/c", "sha256": "12"}}}, "must be 64 hexadecimal digits; got 12"),
        ({"files": {"model.pt": {}}}, "files.model.pt must have one of url .with sha256., copy and where"),
        ({"files": {"../model.pt": {"where": "x"}}}, "must have relative paths, and its name must stay"),
        ({"files": {"/model.pt": {"where": "x"}}}, "must have relative paths"),
        ({"files": {"model.pt": {"copy": "/x"}}}, "must have relative paths"),
    ],
)
def test_mistakes_are_named(changes, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**DEMO, **changes}))
    with pytest.raises(FairseqElError, match=f"recipe.yaml must be a recipe as in docs/recipes.md:(.|\n)*{message}"):
        read_recipe(path)


def test_all_mistakes_at_once(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("task: x\nbeam: 4\n")
    with pytest.raises(FairseqElError) as error:
        read_recipe(path)
    assert str(error.value).count("\n  - ") >= 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "CONFIG must be a YAML file that can be read; .*recipe.yaml does not exist"),
        ("task: [", "CONFIG must be YAML; .*recipe.yaml is not:"),
        ("", "must be a mapping; got None"),
        ("- 1", "must be a mapping; got a list"),
    ],
)
def test_what_is_no_recipe(content, message, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    if content is not None:
        path.write_text(content)
    assert main(["recipe", "download", str(path), "--work", str(tmp_path / "work")]) != 0
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "work").exists()


def test_unknown_step(capsys):
    with pytest.raises(SystemExit):
        main(["recipe", "decode", str(CONFIGS[0])])
    assert "argument STEP: invalid choice: 'decode'" in capsys.readouterr().err


def test_work_must_be_a_directory(tmp_path, capsys):
    (tmp_path / "work").write_text("")
    assert main(["recipe", "download", str(CONFIGS[0]), "--work", str(tmp_path / "work")]) == 2
    assert re.search("--work must be a directory that can be made; .*work: File exists", capsys.readouterr().err)
