"""Conversion of weights, n-gram blocking of stock, and a worker that dies."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from bench.conftest import WORDS as WORDS_OF_DATA
from fairseq.data import data_utils
from fairseq.ngram_repeat_block import NGramRepeatBlock
from tiny import assert_same_logits, build_model, dictionary

import fairseq_el
from fairseq_el.bench import Method, Settings, worker_client
from fairseq_el.bench.programs import FairseqProgram, ScoredOutput
from fairseq_el.bench.programs.ctranslate import CTranslateProgram
from fairseq_el.bench.programs.fairseq import NGramBlockOfWrittenWords, ReferenceScores
from fairseq_el.bench.worker import Session
from fairseq_el.bench.worker_client import WorkerProcess
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.generation import ELSequenceGenerator

pytestmark = pytest.mark.long

WORDS = dictionary()


@pytest.mark.parametrize("embed_scale", [True, False])
def test_hugging_face_computes_the_same_logits(embed_scale):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install fairseq_el[bench]")
    from fairseq_el.bench.programs.huggingface import bart_of

    model = build_model(
        "bart_base", WORDS, 3, torch.float32, share_all_embeddings=True, no_scale_embedding=not embed_scale,
        max_target_positions=32,
    )  # fmt: skip
    converted = bart_of(model, torch.float32)
    assert_same_logits(model, converted, WORDS)
    assert converted.lm_head.weight.data_ptr() == converted.model.encoder.embed_tokens.weight.data_ptr()


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("transformer", {}, "positions that are not learned; no layer norm of the embeddings"),
        ("bart_base", {"share_all_embeddings": False}, "embeddings that are not all shared"),
        (
            "bart_base",
            {"share_all_embeddings": True, "encoder_normalize_before": True},
            "layer norms before the blocks",
        ),
    ],
)
def test_other_models_are_no_bart(arch, options, message):
    pytest.importorskip("transformers", reason="transformers is not installed: pip install fairseq_el[bench]")
    from fairseq_el.bench.programs.huggingface import bart_of

    with pytest.raises(FairseqElError, match=f"hf: only BART checkpoints can be converted, .*{message}"):
        bart_of(build_model(arch, WORDS, 3, torch.float32, **options), torch.float32)


def test_stock_blocks_ngrams_that_it_has_written():
    tokens = torch.full((2, 9), WORDS.pad())
    tokens[:, :6] = torch.tensor([[2, 5, 6, 7, 5, 6], [2, 5, 6, 7, 8, 6]])
    scores = NGramBlockOfWrittenWords(3)(tokens, torch.zeros(2, 12), 1, 2, 5)
    assert scores.isinf().nonzero().tolist() == [[0, 7]]
    as_called = NGramRepeatBlock(3, use_extension=False)(tokens, torch.zeros(2, 12), 1, 2, 5)
    assert not as_called.isinf().any()  # what the search of fairseq does on a CPU


def test_scores_of_given_words():
    model = build_model("bart_base", WORDS, 3, torch.float32)
    source, tokens = torch.tensor([5, 9, 4, WORDS.eos()]), [7, 8, 7, WORDS.eos()]
    scores = ReferenceScores(model, WORDS.eos())(source, tokens)
    with torch.no_grad():
        for i in range(len(tokens)):
            previous = torch.tensor([[WORDS.eos(), *tokens[:i]]])
            log_probs = model(source.unsqueeze(0), torch.tensor([4]), previous)[0][0, -1].log_softmax(-1)
            assert scores[i] == pytest.approx(log_probs[tokens[i]].item(), abs=1e-5)


def test_the_whole_set_in_batches_of_like_lengths(tiny_bart):
    """Outputs come in the order of the data set, and do not depend on the batches."""
    found = {}
    for kind, batch_size in (("stock", 6), ("stock", 4), ("el", 4)):
        method, session = Method(kind, "fp32"), Session()
        session.load(of(method, tiny_bart).as_dict(), asdict(method))
        prepared = session.prepare({"batch": batch_size, "src_len": 9, "whole_set": True})
        assert prepared == {"sentences": 6, "longest": 9, "tokens": 2 * (6 + 9 + 9)}
        outputs = session.decode(0, want_outputs=True)["outputs"]
        assert all(output["tokens"][-1] == WORDS.eos() for output in outputs)
        found[kind, batch_size] = [output["tokens"] for output in outputs]
    assert found["stock", 6] == found["stock", 4] == found["el", 4]


@pytest.mark.parametrize("tgt_len", [0, 7])
def test_prompts_are_continued(tgt_len, tiny_gpt):
    """By EL-attention as by stock; outputs and scores are those of the words that follow the prompts."""
    lines = data_utils.load_indexed_dataset(str(tiny_gpt.data / "test"), WORDS_OF_DATA)
    prompts = [lines[i][:4].tolist() for i in range(6)]
    found = {}
    for kind in ("stock", "el", "shared-kv", "auto"):
        method, session = Method(kind, "fp32"), Session()
        session.load(replace(of(method, tiny_gpt), src_lens=(4,)).as_dict(), asdict(method))
        assert session.prepare({"batch": 6, "src_len": 4}) == {"sentences": 6, "longest": 4, "tokens": 24}
        found[kind] = [ScoredOutput(**output) for output in session.decode(tgt_len, want_outputs=True)["outputs"]]
        if kind == "stock":
            facts = session.describe()
            assert facts["shape"]["encoder_layers"] == 0 and facts["max_target"] == 64 - 4
            tokens = [output.tokens for output in found[kind]]
            scores = session.score({"batch": 6, "src_len": 4}, tokens)["scores"]
    for outputs in found.values():
        assert [output.tokens for output in outputs] == tokens
        for output, expected in zip(outputs, scores):
            assert output.word_scores == pytest.approx(expected, rel=2e-6, abs=1e-5)
            assert output.score == pytest.approx(sum(expected) / len(expected), abs=1e-5)
            assert not tgt_len or len(output.tokens) == tgt_len + 1
    with torch.no_grad():
        read = torch.tensor([[WORDS_OF_DATA.eos(), *prompts[0], *tokens[0][:-1]]])
        log_probs = tiny_gpt.model(read)[0][0, 4:].log_softmax(-1)
    assert scores[0] == pytest.approx(
        log_probs.gather(1, torch.tensor(tokens[0]).unsqueeze(1))[:, 0].tolist(), abs=1e-5
    )


def test_prompts_that_are_too_short(tiny_gpt):
    method, session = Method("el", "fp32"), Session()
    session.load(replace(of(method, tiny_gpt), src_lens=(8,)).as_dict(), asdict(method))
    message = "at most the length of the shortest prompt: line 1 has 5 tokens, and 8 were asked for"
    with pytest.raises(OptionError, match=message):
        session.prepare({"batch": 6, "src_len": 8})


def test_a_model_that_does_not_go_with_the_data(tiny_gpt, tiny_bart):
    method = Method("stock", "fp32")
    for data, other, needed in ((tiny_gpt, tiny_bart, "a decoder alone"), (tiny_bart, tiny_gpt, "an encoder and a")):
        with pytest.raises(FairseqElError, match=f"the benchmark needs {needed}"):
            FairseqProgram(replace(of(method, data), path=str(other.path)), method)


def test_a_model_that_is_there_already(tiny_bart):
    """The program takes it in the place of the checkpoint's."""
    method = Method("stock", "fp32")
    program = FairseqProgram(replace(of(method, tiny_bart), path="nowhere.pt"), method, tiny_bart.model)
    assert program.model is tiny_bart.model and program.shape["encoder_layers"] == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ctranslate2_decodes_on_the_device(device, tiny_bart, monkeypatch):
    """With compute types of that device, and in a translator of its own."""
    asked = []
    fake = SimpleNamespace(
        get_supported_compute_types=lambda device: {"cpu": {"int8"}, "cuda": {"float16"}}[device],
        Translator=lambda path, **options: asked.append(options["device"]),
    )
    monkeypatch.setattr("fairseq_el.bench.programs.ctranslate.optional_module", lambda name: fake)
    fits, other = ("int8", "float16") if device == "cpu" else ("float16", "int8")
    settings = replace(of(Method("stock", "fp32"), tiny_bart), device=device)
    CTranslateProgram(settings, Method("ct2", fits))
    assert asked == [device]
    where = "processor" if device == "cpu" else "card"
    with pytest.raises(FairseqElError, match=f"this {where} computes {fits}; {other} was asked for"):
        CTranslateProgram(settings, Method("ct2", other))


def test_batches_that_were_decoded_in_halves_are_not_reported(tiny_bart, monkeypatch):
    method, session = Method("el", "fp32"), Session()
    session.load(of(method, tiny_bart).as_dict(), asdict(method))
    session.prepare({"batch": 6, "src_len": 9, "whole_set": True})
    decode = ELSequenceGenerator._decode

    def limited(self, sample, *args, **options):
        if sample["id"].numel() > 3:
            raise RuntimeError("CUDA out of memory")
        return decode(self, sample, *args, **options)

    monkeypatch.setattr(ELSequenceGenerator, "_decode", limited)
    with pytest.raises(fairseq_el.OutOfMemoryError, match=r"^el@fp32: a batch of 6 sentences ran out of memory\. T"):
        session.decode(0, want_outputs=True)


def of(method, bart):
    longest = {"natural_length": 20}
    return Settings(methods=(method,), baseline=method, data=str(bart.data), path=str(bart.path), **longest)


@pytest.mark.parametrize(("in_python", "expected"), [(True, "0"), (False, "1")])
def test_methods_in_python_have_no_native_code(in_python, expected, tiny_bart, tmp_path, monkeypatch):
    """The worker is replaced by a program that answers with its environment."""
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "1")
    answer = "import json, os; input(); print(json.dumps({'loaded_bytes': os.environ['FAIRSEQ_EL_NATIVE']}))"
    popen = worker_client.subprocess.Popen
    monkeypatch.setattr(
        worker_client.subprocess, "Popen", lambda command, **options: popen([command[0], "-c", answer], **options)
    )
    method = Method("el", "fp32", in_python=in_python)
    with WorkerProcess(of(method, tiny_bart), method, method.label, tmp_path) as worker:
        assert worker.load().loaded_bytes == expected


def test_a_worker_that_dies(tiny_bart, tmp_path):
    """What it wrote last is in the error."""
    stock = Method("stock", "fp32")
    with WorkerProcess(of(stock, tiny_bart), stock, "stock@fp32", tmp_path) as worker:
        worker.load()
        message = r"worker of stock@fp32 died with exit status 1 during `score`.*(?s:.*)TypeError: .*nonsense"
        with pytest.raises(FairseqElError, match=message):
            worker.ask("score", nonsense=1)
