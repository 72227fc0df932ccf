"""Hub interfaces with EL-attention: as stock, and ``no_repeat_ngram_size`` blocks."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from commands import documented_python
from fairseq.hub_utils import GeneratorHubInterface
from fairseq.models.bart import BARTModel
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.sequence_generator import SequenceGenerator
from fairseq.sequence_scorer import SequenceScorer
from tiny import TinyTask, assert_same_hypotheses, dictionary
from tiny_data import save_checkpoint, write_pairs, write_text

import fairseq_el
from fairseq_el.generation import ELSequenceGenerator

pytestmark = pytest.mark.usefixtures("both_ways")

KINDS = {
    "bart": (BARTModel, "bart_base"),
    "transformer": (TransformerModel, "transformer"),
    "language model": (TransformerLanguageModel, "transformer_lm"),
}
OPTIONS = {"max_len_b": 30, "min_len": 25}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """A hub interface of a kind, in float64 as good as new every time."""
    work = tmp_path_factory.mktemp("hub")
    sizes = {"train": 1, "test": 1}
    data = {"pairs": write_pairs(work / "pairs", sizes), "text": write_text(work / "text", sizes)}

    def make(kind, files="model.pt", **options):
        model, arch = KINDS[kind]
        kept = data["text" if kind == "language model" else "pairs"]
        task = "language_modeling" if kind == "language model" else "translation"
        for seed, name in enumerate(files.split(":")):
            save_checkpoint(kept / name, arch, task=task, seed=seed)
        hub = model.from_pretrained(str(kept), files, str(kept), bpe=None, **options).double().eval()
        if kind == "bart":  # its interface can't do without, and adds unknown words to the dictionary
            hub.bpe = SimpleNamespace(encode=lambda text: text.replace("...", "w1 w5 w3"), decode=lambda text: text)
        return hub

    return make


def words(*sentences):
    return [torch.tensor([4 + word for word in sentence] + [2]) for sentence in sentences]


SENTENCES = words([1, 5, 3, 7], [2], [9, 8, 7, 6, 5, 4])


def found(hub, **options):
    """Hypotheses for some sentences: tokens and scores."""
    hypotheses = hub.generate(SENTENCES, **{"beam": 4, **OPTIONS, **options})
    return [[(h["tokens"].tolist(), h["score"].item()) for h in each] for each in hypotheses]


def repeats_a_trigram(tokens):
    trigrams = list(zip(tokens, tokens[1:], tokens[2:]))
    return len(set(trigrams)) < len(trigrams)


def state(hub):
    return {key: id(value) for key, value in hub.task.__dict__.items()}, set(hub.__dict__), set(hub.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_as_stock_but_for_blocked_trigrams(kind, load):
    hub = load(kind)
    before, plain, sampled = state(hub), found(hub), hub.sample(["w1 w2 w3"], beam=2, **OPTIONS)
    stock = found(hub, no_repeat_ngram_size=3)
    assert_same_hypotheses(stock, plain, abs=1e-6)
    assert any(repeats_a_trigram(tokens) for each in stock for tokens, _ in each)
    assert fairseq_el.enable_el_attention(hub) is hub and fairseq_el.enable_el_attention(hub) is hub
    assert_same_hypotheses(found(hub), plain, abs=1e-6)
    assert hub.sample(["w1 w2 w3"], beam=2, **OPTIONS) == sampled
    blocked = found(hub, no_repeat_ngram_size=3)
    assert not any(repeats_a_trigram(tokens) for each in blocked for tokens, _ in each)
    assert set(hub.state_dict()) == before[2]
    assert fairseq_el.disable_el_attention(hub) is hub and fairseq_el.disable_el_attention(hub) is hub
    assert state(hub) == before
    assert_same_hypotheses(found(hub, no_repeat_ngram_size=3), stock, abs=1e-6)


def test_the_lines_of_the_readme(load, monkeypatch):
    """With a tiny model in the place of the one that they download."""
    bart = load("bart")
    monkeypatch.setattr(BARTModel, "from_pretrained", lambda *args, **kwargs: bart)
    written, generate = [], bart.generate

    def noted(*args, **kwargs):
        written.append(generate(*args, **kwargs))
        return written[-1]

    monkeypatch.setattr(bart, "generate", noted)
    exec(documented_python("bart.sample"), {})
    (hypotheses,) = written[-1]
    assert len(hypotheses) == 4 and all(hypothesis["tokens"].numel() > 50 for hypothesis in hypotheses)
    assert not any(repeats_a_trigram(hypothesis["tokens"].tolist()) for hypothesis in hypotheses)
    assert not fairseq_el.el_attention_enabled(bart)


def test_several_models_and_translate(load):
    hub = load("transformer", "model.pt:other.pt")
    assert len(hub.models) == 2
    plain, translated = found(hub), hub.translate(["w1 w2", "w3"])
    fairseq_el.enable_el_attention(hub, backend="auto", self_attention="el")
    assert_same_hypotheses(found(hub), plain, abs=1e-6)
    assert hub.translate(["w1 w2", "w3"]) == translated


def test_prefixes_and_scores(load):
    hub = load("transformer")
    prefix = {"inference_step_args": {"prefix_tokens": torch.tensor([[7], [7], [7]])}}
    plain = found(hub, **prefix)
    fairseq_el.enable_el_attention(hub)
    assert_same_hypotheses(found(hub, **prefix), plain, abs=1e-6)
    lm = load("language model")
    expected = lm.score("w1 w2 w3")["positional_scores"]
    fairseq_el.enable_el_attention(lm)
    assert torch.allclose(lm.score("w1 w2 w3")["positional_scores"], expected)
    assert type(lm.task.build_generator(lm.models, lm.cfg.generation)) is ELSequenceGenerator


@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_runs_out_of_memory(kind, load, monkeypatch, caplog):
    hub = load(kind)
    plain = found(hub, beam=3)
    fairseq_el.enable_el_attention(hub)
    decode, tried = ELSequenceGenerator._decode, []

    def decode_one(self, sample, *args, **options):
        tried.append(sample["net_input"]["src_tokens"].size(0))
        if tried[-1] > 1:
            raise RuntimeError("CUDA out of memory")
        return decode(self, sample, *args, **options)

    monkeypatch.setattr(ELSequenceGenerator, "_decode", decode_one)
    assert_same_hypotheses(found(hub, beam=3), plain, abs=1e-6)
    assert tried == [3, 2, 1, 1, 1]
    assert "Batches of 1 fitted" in caplog.text


def test_a_shallow_copy_shares_the_task(load):
    """Deep copies of a hub interface end in a RecursionError in stock, too: fairseq's tasks can't be copied."""
    hub = fairseq_el.enable_el_attention(load("bart"))
    clone = copy.copy(hub)
    for each in (hub, clone):
        fairseq_el.disable_el_attention(each)
        assert "build_generator" not in hub.task.__dict__


def test_two_interfaces_of_one_task(load):
    first = load("transformer")
    second = GeneratorHubInterface(first.cfg, first.task, [copy.deepcopy(first.models[0])])
    fairseq_el.enable_el_attention(first)
    assert type(second.task.build_generator(second.models, second.cfg.generation)) is SequenceGenerator
    fairseq_el.enable_el_attention(second)
    fairseq_el.disable_el_attention(first)
    assert type(first.task.build_generator(first.models, first.cfg.generation)) is SequenceGenerator
    assert type(second.task.build_generator(second.models, second.cfg.generation)) is ELSequenceGenerator
    fairseq_el.disable_el_attention(second)
    assert "build_generator" not in first.task.__dict__


def test_what_a_user_had_put_in_the_place_of_the_method_is_put_back(load):
    hub = load("transformer")
    mine = TinyTask(dictionary()).build_generator
    hub.task.build_generator = mine
    fairseq_el.enable_el_attention(hub)
    assert type(hub.task.build_generator(hub.models, hub.cfg.generation)) is ELSequenceGenerator
    fairseq_el.disable_el_attention(hub)
    assert hub.task.__dict__["build_generator"] == mine


def test_a_scorer_stays_a_scorer(load):
    hub = fairseq_el.enable_el_attention(load("transformer"))
    arguments = copy.deepcopy(hub.cfg.generation)
    arguments.score_reference = True
    assert type(hub.task.build_generator(hub.models, arguments)) is SequenceScorer
