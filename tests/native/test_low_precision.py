"""Native code in 16 and in 8 bits."""

from __future__ import annotations

import pytest
import torch
from native_cases import WORDS, assert_same, both, generator_of, make, tokens
from searches import in_python, natively, skip_unless_compiled
from tiny import batch, build_model

import fairseq_el
from fairseq_el.ops import why_no_int8

skip_unless_compiled()


@pytest.mark.parametrize(("backend", "own"), [("shared-kv", "kv"), ("el", "el")])
def test_bfloat16_errs_at_most_twice_as_much_as_the_python_way(backend, own):
    """Log-probabilities of the words of each way's hypotheses, against those of the same weights in float64."""
    errors = {natively: [], in_python: []}
    for seed in range(8):
        model = build_model("transformer", WORDS, seed, torch.bfloat16, decoder_embed_dim=32).requires_grad_(False)
        sample = batch(WORDS, [5, 2, 7, 1, 9, 12, 3, 3], seed=seed)
        stock = build_model("transformer", WORDS, seed, decoder_embed_dim=32)
        stock.load_state_dict(model.state_dict())
        fairseq_el.enable_el_attention(model, backend, own)
        for way, found in errors.items():
            with way():
                decoded = generator_of(model, beam_size=4).generate([model], sample)
            for i, hypotheses in enumerate(decoded):
                source = {name: values[i : i + 1] for name, values in sample["net_input"].items()}
                for hypothesis in hypotheses:
                    words = hypothesis["tokens"].unsqueeze(0)
                    before = words.roll(1, dims=1)  # the eos is the first symbol too
                    with torch.no_grad():
                        logits = stock(source["src_tokens"], source["src_lengths"], before)[0]
                    exact = torch.log_softmax(logits, dim=2)[0].gather(1, words[0].unsqueeze(1))[:, 0]
                    found.append((hypothesis["positional_scores"].double() - exact).abs())
    mine, theirs = (torch.cat(errors[way]) for way in (natively, in_python))
    assert 0 < mine.max() <= 2 * theirs.max()
    assert mine.square().mean().sqrt() <= 2 * theirs.square().mean().sqrt()


# 8 bits

in_int8 = pytest.mark.skipif(bool(why_no_int8("cpu")), reason=why_no_int8("cpu"))


@in_int8
@pytest.mark.parametrize("backend", ["el", "shared-kv"])
@pytest.mark.parametrize("options", [{}, {"activation_fn": "gelu", "decoder_normalize_before": True}], ids=str)
def test_weights_in_8_bits_give_the_hypotheses_of_the_python_way(options, backend):
    """A number between two whole ones may be rounded either way; with these models it decides nothing.

    Self-attention ``el`` is left out: in Python, the first words' keys and values are products in 8 bits.
    """
    model = fairseq_el.enable_el_attention(make(dtype=torch.float32, **options), backend, "kv")
    generator = generator_of(model, beam_size=4)
    generator.int8_weights = True
    found, expected = both(generator)
    assert tokens(found) == tokens(expected)
    assert_same(found, expected, rtol=1e-4, atol=1e-4)
    generator.int8_weights = False
    plain = both(generator)[0]
    assert [float(h[0]["score"]) for h in plain] != [float(h[0]["score"]) for h in found]
