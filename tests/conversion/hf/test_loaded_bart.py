"""A fairseq BART model in memory as Hugging Face's: the same logits, and tensors that share their memory."""

from __future__ import annotations

import pytest
import torch
from tiny import assert_same_logits, build_model, dictionary

from fairseq_el.conversion.hf import bart_to_hf
from fairseq_el.errors import FairseqElError

WORDS = dictionary()


def bart(**options):
    return build_model("bart_base", WORDS, 3, torch.float32, share_all_embeddings=True, **options)


@pytest.mark.parametrize("options", [{}, {"no_scale_embedding": False}, {"max_target_positions": 32}])
def test_the_same_logits(options):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = bart(**options)
    config, state = bart_to_hf(model)
    theirs = transformers.BartForConditionalGeneration(transformers.BartConfig(**config)).eval()
    theirs.load_state_dict(state)
    assert_same_logits(model, theirs, WORDS)


def test_tied_tensors_are_one_and_others_the_models_own():
    model = bart()
    _, state = bart_to_hf(model)
    tied = ["model.shared.weight", "model.encoder.embed_tokens.weight", "lm_head.weight"]
    assert {state[name].data_ptr() for name in tied} == {model.encoder.embed_tokens.weight.data_ptr()}
    layer = model.decoder.layers[0].fc1.weight
    assert state["model.decoder.layers.0.fc1.weight"].data_ptr() == layer.data_ptr()


def test_another_dtype():
    _, state = bart_to_hf(bart(), torch.bfloat16)
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    assert state["lm_head.weight"] is state["model.shared.weight"]


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("transformer", {}, "positions that are not learned; no layer norm of the embeddings"),
        ("bart_base", {"share_all_embeddings": False}, "embeddings that are not all shared"),
        ("bart_base", {"share_all_embeddings": True, "activation_fn": "tanh"}, "the activation tanh"),
    ],
)
def test_every_reason_is_listed(arch, options, message):
    with pytest.raises(FairseqElError, match=f"only BART checkpoints can be converted, .*{message}"):
        bart_to_hf(build_model(arch, WORDS, 3, torch.float32, **options))
