"""Random models and random options of searches, decoded in two ways."""

from __future__ import annotations

import copy
from typing import Any, Callable, ContextManager

import torch
from hypothesis import strategies as st
from native_cases import WORDS, assert_same
from rounding import rounded_alike
from searches import in_python
from tiny import batch, build_language_model, build_model

import fairseq_el
from fairseq_el.errors import FairseqElError
from fairseq_el.generation import ELSequenceGenerator

# Widths and heads of a decoder: a head has 2 to 40 numbers, some of them no whole vector of any instruction set.
WIDTHS = [(16, 2), (16, 4), (16, 8), (8, 1), (12, 3), (21, 3), (21, 7), (24, 4), (36, 2), (40, 1), (40, 5), (56, 8)]
ACTIVATIONS = ["relu", "gelu", "gelu_accurate", "relu_squared", "tanh", "linear", "swish"]


def options_of_decoders(draw: Any) -> dict[str, Any]:
    width, heads = draw(st.sampled_from(WIDTHS))
    return {
        "decoder_embed_dim": width,
        "decoder_attention_heads": heads,
        "decoder_ffn_embed_dim": draw(st.sampled_from([24, 17])),
        "decoder_layers": draw(st.integers(1, 3)),
        "decoder_normalize_before": draw(st.booleans()),
        "decoder_learned_pos": draw(st.booleans()),
        "no_token_positional_embeddings": draw(st.sampled_from([False, False, True])),
        "no_scale_embedding": draw(st.booleans()),
        "no_decoder_final_norm": draw(st.booleans()),
        "layernorm_embedding": draw(st.booleans()),
        "share_decoder_input_output_embed": draw(st.booleans()),
    }


@st.composite
def encoder_decoders(draw: Any, dtype: torch.dtype) -> torch.nn.Module:
    options = options_of_decoders(draw)
    if options["decoder_embed_dim"] % 2:
        options["decoder_learned_pos"] = True  # fairseq's sinusoids come in pairs
    activation = draw(st.sampled_from(ACTIVATIONS))
    arch = draw(st.sampled_from(["transformer", "bart_base"]))
    if activation == "swish" or draw(st.booleans()):
        arch = f"el_{arch}"  # stock's swish fails
        options["output_bias"] = draw(st.booleans())
    options.update(
        activation_fn=activation,
        encoder_embed_dim=draw(st.sampled_from([8, 16, 24, 40])),
        encoder_attention_heads=draw(st.sampled_from([1, 4, 8])),
        encoder_ffn_embed_dim=draw(st.sampled_from([24, 17])),
        encoder_layers=draw(st.integers(1, 2)),
        encoder_learned_pos=draw(st.booleans()),
        encoder_normalize_before=draw(st.booleans()),
        share_all_embeddings=False,
    )
    model = build_model(arch, WORDS, draw(st.integers(0, 10**6)), dtype, **options)
    if draw(st.booleans()):
        for layer in model.decoder.layers:
            layer.encoder_attn.k_proj.bias = layer.encoder_attn.v_proj.bias = None
    return model


@st.composite
def language_models(draw: Any, dtype: torch.dtype) -> torch.nn.Module:
    options = options_of_decoders(draw)
    if options["decoder_embed_dim"] % 2:
        options["decoder_learned_pos"] = True
    inner = draw(st.sampled_from([options["decoder_embed_dim"], 12, 16]))
    options.update(
        activation_fn=draw(st.sampled_from(ACTIVATIONS[:-1])), decoder_input_dim=inner, decoder_output_dim=inner
    )
    if draw(st.integers(0, 4)) == 0:
        adaptive = {"adaptive_input": True, "adaptive_input_cutoff": "8,14", "adaptive_input_factor": 2}
        options.update(adaptive, share_decoder_input_output_embed=False, tie_adaptive_weights=False)
    return build_language_model(WORDS, draw(st.integers(0, 10**6)), dtype, **options)


@st.composite
def options_of_searches(draw: Any, has_source: bool, longest: int) -> dict[str, Any]:
    return {
        "beam_size": draw(st.integers(1, 6)),
        "max_len_b": draw(st.integers(3, longest)),
        "min_len": draw(st.integers(1, 3)),
        "len_penalty": draw(st.sampled_from([1.0, 0.5, 2.0, 0.0])),
        "unk_penalty": draw(st.sampled_from([0.0, 0.0, 0.7, -2.0])),
        "temperature": draw(st.sampled_from([1.0, 1.0, 0.8])),
        "normalize_scores": draw(st.booleans()),
        "no_repeat_ngram_size": draw(st.sampled_from([0, 0, 1, 2, 3])),
        "match_source_len": has_source and draw(st.integers(0, 6)) == 0,
        "tokens_to_suppress": draw(st.sampled_from([(), (), ("w3", "w5")])),
    }


@st.composite
def prefixes(draw: Any, num_sentences: int, shortest: int) -> torch.Tensor:
    """Random words, padded. *Shape:* ``(B, p)``."""
    lengths = draw(st.lists(st.integers(shortest, 4), min_size=num_sentences, max_size=num_sentences))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    width = max([*lengths, 1])
    words = torch.randint(WORDS.nspecial, len(WORDS), (num_sentences, width), generator=generator)
    return words.masked_fill(torch.arange(width) >= torch.tensor(lengths).unsqueeze(1), WORDS.pad())


def decoded(generator: Any, model: Any, sample: Any, given: dict[str, Any], dtype: torch.dtype) -> Any:
    """Hypotheses of each sentence, or what is said about a batch without them."""
    sample = copy.deepcopy(sample)
    try:
        with rounded_alike(dtype):
            return generator.generate([model], sample, **given)
    except FairseqElError as error:
        return f"{type(error).__name__}: {error}"


def check(
    data: Any,
    dtype: torch.dtype,
    of_language: bool,
    way: Callable[[], ContextManager[Any]],
    may_be_alone: bool = False,
    longest: int = 14,
    **tolerance: float,
) -> None:
    """Draws, and compares a way of decoding with Python's.

    Args:
        may_be_alone: whether sentences may be decoded each as if it were alone.
        longest: words that a hypothesis may have, at most.
    """
    model = data.draw((language_models if of_language else encoder_decoders)(dtype))
    fairseq_el.enable_el_attention(
        model, data.draw(st.sampled_from(["el", "shared-kv"])), data.draw(st.sampled_from(["kv", "el"]))
    )
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=7))
    sample = batch(WORDS, lengths, data.draw(st.integers(0, 10**6)), left_pad_source=data.draw(st.booleans()))
    options, given = data.draw(options_of_searches(has_source=not of_language, longest=longest)), {}
    generator = ELSequenceGenerator([model], WORDS, **options)
    generator.record_attention = False
    generator.encoder_tokens = data.draw(st.sampled_from([1, 9, 8192]))
    if of_language or data.draw(st.integers(0, 2)) == 0:
        given["prefix_tokens"] = data.draw(prefixes(len(lengths), shortest=data.draw(st.integers(0, 1))))
        if data.draw(st.integers(0, 2)) == 0:
            generator.min_new_tokens = data.draw(st.sampled_from([None, 1, 2]))
            generator.max_new_tokens = data.draw(st.sampled_from([None, 3, 4, 6]))
    if may_be_alone and data.draw(st.booleans()):
        generator.alone = True
        generator.max_len_a = data.draw(st.sampled_from([0, 0.5, 1.5]))
        generator.max_len_b = data.draw(st.integers(3, longest // 2))
    if of_language:
        begun = torch.nn.functional.pad(given["prefix_tokens"], (1, 0), value=WORDS.eos())
        sample = {"id": sample["id"], "net_input": {"src_tokens": begun, "src_lengths": begun.ne(1).sum(dim=1)}}
    with in_python():
        expected = decoded(generator, model, sample, given, dtype)
    with way():
        found = decoded(generator, model, sample, given, dtype)
    assert_same(found, expected, **tolerance)
