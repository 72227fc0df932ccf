"""Every family: the same logits and hypotheses in both programs, and the same weights after the way there and back."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import fairseq.utils
import hf_models
import pytest
import torch
from both_programs import Pair
from fairseq.data import Dictionary

import fairseq_el  # noqa: F401  (registers architectures, makes checkpoints loadable)
from fairseq_el.conversion.hf import compare_logits, from_hf, to_hf
from fairseq_el.errors import FairseqElError

FAMILIES = ["bart", "gpt2", "marian", "pegasus", "mbart50", "mbart25", "m2m100", "nllb"]
GREEDY: dict[str, Any] = {"num_beams": 1, "max_length": 36}
BEAM: dict[str, Any] = {
    "num_beams": 4,
    "early_stopping": True,
    "length_penalty": 1.4,
    "min_length": 4,
    "max_length": 36,
}
# Of models that end most outputs, and not all at once.
SEEDS = {"gpt2": 9, "marian": 8, "pegasus": 5, "m2m100": 7, "nllb": 1}
ENDED = 3  # of six sentences, at least: those that run into max_length are not ended alike


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Directories of a family's model with some generation settings, and of what it was converted to."""

    @lru_cache(maxsize=None)
    def make(family: str, **generation: Any) -> tuple[Path, Path]:
        work = tmp_path_factory.mktemp(family)
        model = hf_models.build(family, SEEDS.get(family, 4))
        if model.config.pad_token_id is not None:
            generation["bad_words_ids"] = [[model.config.pad_token_id]]  # fairseq never writes padding
        hf_models.save(model, family, work / "hf", **generation)
        from_hf(work / "hf", work / "out")
        return work / "hf", work / "out"

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family, converted, monkeypatch):
    pair = Pair(*converted(family))
    mine, theirs = pair.logits()
    assert theirs.std() > 0.5
    assert (mine - theirs).abs().max() <= 1e-5 * max(1.0, theirs.abs().max())
    # fairseq's softmax goes through float32, whatever it is given
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: x.softmax(dim))
    pair = Pair(*converted(family), dtype=torch.float64)
    mine, theirs = pair.logits()
    assert (mine - theirs).abs().max() <= 1e-12


@pytest.mark.parametrize("family", FAMILIES)
def test_symbols_that_the_model_has_not_are_never_written(family, converted):
    pair = Pair(*converted(family))
    absent = (pair.ids < 0).nonzero().squeeze(1)
    assert len(absent) == {"gpt2": 3, "marian": 1, "pegasus": 1}.get(family, 0)
    with torch.no_grad():
        logits = pair._mine(*pair.sources()[:2])
    assert (logits.softmax(-1)[:, absent] == 0).all() and logits.isfinite().all()


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "mbart25"])
@pytest.mark.parametrize("generation", [GREEDY, BEAM, {**BEAM, "no_repeat_ngram_size": 2}], ids=["1", "4", "ngram"])
def test_hypotheses(family, generation, converted):
    """Of stock's generator and attention, and of this package's."""
    if family == "gpt2" and generation["num_beams"] > 1:  # fairseq's scores count the prompt
        generation = {**generation, "length_penalty": 0.0}
    pair = Pair(*converted(family, **generation))
    sources = pair.sources()
    expected = pair.hf_hypotheses(sources)
    ended = [words[-1] == 2 for words in expected]
    assert sum(ended) >= (1 if generation is GREEDY else ENDED)
    for el in (True, False):
        if not el and "no_repeat_ngram_size" in generation:  # stock forbids no n-grams without its CUDA extension
            continue
        for mine, theirs, whole in zip(pair.hypotheses(sources, el), expected, ended):
            assert not whole or mine == theirs
            if generation is GREEDY:
                assert mine[: len(theirs) - 1] == theirs[:-1]


@pytest.mark.parametrize(("family", "token"), [("mbart50", "ro_RO"), ("m2m100", "__cs__"), ("nllb", "ron_Latn")])
def test_a_forced_first_word(family, token, converted):
    """The target language: fairseq forces it by a prefix, and with lenpen 0 its score makes no difference."""
    language = hf_models.vocabulary(family).index(token)
    pair = Pair(*converted(family, **{**BEAM, "length_penalty": 0.0}, forced_bos_token_id=language))
    sources = pair.sources()
    expected = pair.hf_hypotheses(sources)
    for el in (True, False):
        same = [
            mine == theirs
            for mine, theirs in zip(pair.hypotheses(sources, el, prefix=[language]), expected)
            if theirs[-1] == 2
        ]
        assert len(same) >= ENDED and all(same)


def test_mbart25_goes_on_to_the_language(converted):
    """fairseq's hypotheses begin as those of transformers, up to </s>, where the language's symbol is the eos."""
    pair = Pair(*converted("mbart25", **GREEDY))
    language = pair.words.index("[ro_RO]")
    sources = [torch.cat([source, torch.tensor([pair.words.index("[en_XX]")])]) for source in pair.sources()]
    expected = pair.hf_hypotheses(sources)
    from fairseq.sequence_generator import SequenceGenerator

    generator = SequenceGenerator([pair.model], pair.words, **pair.options(), eos=language)
    for source, theirs in zip(sources, expected):
        sample = {"net_input": {"src_tokens": source.unsqueeze(0), "src_lengths": torch.tensor([len(source)])}}
        (found,) = generator.generate([pair.model], sample)
        mine = found[0]["tokens"].tolist()
        end = mine.index(2) + 1 if 2 in mine else len(mine) - 1
        assert mine[: min(end, len(theirs))] == theirs[: min(end, len(theirs))]


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back(family, converted, tmp_path):
    """Hugging Face -> fairseq -> Hugging Face -> fairseq: every tensor, and the dictionary, bit by bit."""
    hf, out = converted(family)
    (out / "dict.txt").write_text((out / "dict.txt").read_text().replace(" 1\n", " 7\n", 3))
    for path in out.glob("dict.*.txt"):
        path.write_text((out / "dict.txt").read_text())
    report = to_hf(out, tmp_path / "hf", verify=True)
    assert report.largest_difference is not None and report.largest_difference < 1e-5
    again = from_hf(tmp_path / "hf", tmp_path / "again")
    assert again.arch == report.arch
    assert_same_weights(out / "model.pt", tmp_path / "again" / "model.pt")
    for path in (*sorted(out.glob("dict*.txt")), out / "generate.args"):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    from safetensors.torch import load_file

    theirs, mine = (load_file(directory / "model.safetensors") for directory in (hf, tmp_path / "hf"))
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())
    assert {name for name in set(mine) - set(theirs) if "embed_positions" not in name} <= set()


def assert_same_weights(one: Path, other: Path) -> None:
    mine, theirs = (torch.load(path)["model"] for path in (one, other))
    assert list(mine) == list(theirs)
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_and_pickles(family, tmp_path):
    """Weights keep their format, whatever file they are in; tied weights may be there several times."""
    model = hf_models.build(family, 5).half()
    hf_models.save(model, family, tmp_path / "safe")
    hf_models.save(model, family, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    state = model.state_dict()
    torch.save(state, tmp_path / "pickled" / "pytorch_model.bin")
    for name in ("safe", "pickled"):
        from_hf(tmp_path / name, tmp_path / f"{name}-out")
    pickled = torch.load(tmp_path / "pickled-out" / "model.pt")["model"]
    for name, tensor in torch.load(tmp_path / "safe-out" / "model.pt")["model"].items():
        if "embed_positions" in name:  # sinusoids that are not in the file are in fp32, whatever the weights are in
            torch.testing.assert_close(pickled[name].float(), tensor.float(), rtol=0, atol=1e-3)
        else:
            assert tensor.dtype == pickled[name].dtype and torch.equal(tensor, pickled[name]), name
    weights = torch.load(tmp_path / "safe-out" / "model.pt")["model"]
    assert weights["decoder.layers.0.fc1.weight"].dtype == torch.float16
    assert compare_logits(tmp_path / "safe", tmp_path / "safe-out") < 1e-5


def test_the_dictionary_of_bart_is_gpt2s(converted):
    _, out = converted("bart")
    words = Dictionary.load(str(out / "dict.txt"))
    tokens = hf_models.vocabulary("bart")
    assert len(words) == len(tokens) and words[tokens.index("Ġthe")] == "262" and words[len(words) - 1] == "<mask>"


def test_old_files_of_m2m(tmp_path):
    """They have computed positions, and the embedding under some of its names; no class of a tokenizer is named."""
    model = hf_models.build("m2m100", 5)
    hf_models.save(model, "m2m100", tmp_path / "hf")
    from_hf(tmp_path / "hf", tmp_path / "expected")
    state = model.state_dict()
    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weights"] = torch.zeros(42, 16)
    del state["model.shared.weight"], state["model.encoder.embed_tokens.weight"]
    (tmp_path / "hf" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "hf" / "pytorch_model.bin")
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"language_codes": "wmt21"}))
    report = from_hf(tmp_path / "hf", tmp_path / "out")
    assert report.family == "M2M-100"
    assert_same_weights(tmp_path / "expected" / "model.pt", tmp_path / "out" / "model.pt")
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps({"language_codes": "more"}))
    with pytest.raises(FairseqElError, match="language_codes must be one of m2m100, wmt21; it is 'more'"):
        from_hf(tmp_path / "hf", tmp_path / "never")


@pytest.mark.parametrize(
    ("named", "pair"), [({}, "eng_Latn ron_Latn"), ({"tgt_lang": "deu_Latn"}, "eng_Latn deu_Latn")]
)
def test_languages_of_printed_commands(named, pair, tmp_path):
    """Those that the tokenizer's files name; its own where they name none. A tokenizer that differs is said."""
    hf_models.save(hf_models.build("nllb", 5), "nllb", tmp_path / "hf")
    settings = {"tokenizer_class": "NllbTokenizer", "legacy_behaviour": not named, **named}
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    report = from_hf(tmp_path / "hf", tmp_path / "out")
    source, target = pair.split()
    assert f"--source-lang {source} --target-lang {target} --lang-pairs {source}-{target}" in report.usage[0]
    assert any(note.startswith("legacy_behaviour is True") for note in report.notes) == (not named)
