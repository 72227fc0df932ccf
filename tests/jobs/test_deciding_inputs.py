"""Files and options that decide results."""

from __future__ import annotations

import json

import pytest
from tiny_texts import PAIR, write_models

from fairseq_el.text.deciding_inputs import deciding_files, deciding_options
from fairseq_el.text.loading import Settings, read_settings


@pytest.fixture(scope="module")
def settings_of(tmp_path_factory):
    models = write_models(tmp_path_factory.mktemp("models"))
    (models / "words").write_text("w1 w2\n")

    def read(*options: str) -> Settings:
        named = [str(models / word[1:]) if word.startswith("@") else word for word in options]
        return read_settings([str(models), "--path", f"{models}/a.pt:{models}/b.pt", *PAIR, "--cpu", *named])

    return read


def test_files(settings_of):
    found = deciding_files(settings_of("--replace-unk", "@words", "--print-alignment", "--lm-path", "@lm.pt"))
    names = {kind: [path.name for path in paths] for kind, paths in found.items()}
    assert names == {
        "checkpoints": ["a.pt", "b.pt"],
        "dictionaries": ["dict.aa.txt", "dict.bb.txt", "dict.txt"],
        "files": ["lm.pt", "words"],
    }


@pytest.mark.parametrize("task", ["translation", "translation_from_pretrained_bart"])
def test_options(task, settings_of):
    """Tasks of fairseq keep their options in two ways: those with a dataclass, and older ones."""
    kind = ["--task", task, *(["--langs", "aa,bb"] if "bart" in task else [])]
    before = deciding_options(settings_of(*kind))
    json.dumps(before)
    assert (before["task"], before["source_lang"], before["seed"]) == (f"el_{task}", "aa", 1)
    neutral = ["--batch-size", "3", "--max-tokens", "100", "--buffer-size", "9", "--el-encoder-tokens", "64"]
    assert deciding_options(settings_of(*kind, *neutral)) == before
    changes = {"beam": "3", "seed": "7", "el-dtype": "fp64", "lenpen": "0.5", "model-overrides": "{'dropout': 0.2}"}
    for name, value in changes.items():
        after = deciding_options(settings_of(*kind, f"--{name}", value))
        changed = {one for one in before if before[one] != after[one]}
        assert changed == {name.replace("-", "_")}
