"""No mask of all words by all words is made where self-attention is all Top-k; what is computed stays the same."""

from __future__ import annotations

import copy
import itertools
from functools import partial

import pytest
import torch
from fairseq.models.transformer import TransformerDecoder
from fairseq.modules import MultiheadAttention
from fairseq.sequence_scorer import SequenceScorer
from tiny import batch, build_language_model, build_model, dictionary
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from fairseq_el.decoding import disable_el_attention, enable_el_attention
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.measure import CAN_TRACK, peak_bytes
from fairseq_el.topk import disable_topk_attention, enable_topk_attention
from fairseq_el.topk.causal_mask import FutureMask

WORDS = dictionary()
LENGTH = 131  # words, k and chunks are so few that nothing but a mask has LENGTH x LENGTH numbers
NO_DROPOUT = {"dropout": 0, "attention_dropout": 0, "activation_dropout": 0}


class LargestTensor(TorchDispatchMode):
    """The most numbers of any tensor that an operation returned."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_flatten(result)[0] if isinstance(leaf, torch.Tensor)]
        self.most = max([self.most, *sizes])
        return result


def most_numbers(call):
    with LargestTensor() as largest:
        call()
    return largest.most


def with_stock_mask(model):
    """The same model, whose decoder makes fairseq's mask: as before there was :class:`FutureMask`."""
    twin = copy.deepcopy(model)
    assert isinstance(twin.decoder.__dict__.pop("buffered_future_mask"), FutureMask)
    return twin


def tokens_of(length, rows=1, seed=1):
    return torch.randint(4, len(WORDS), (rows, length), generator=torch.Generator().manual_seed(seed))


def long_language_model(k=5, **options):
    model = build_language_model(WORDS, seed=1, max_target_positions=1024, tokens_per_sample=1024, **options)
    return enable_topk_attention(model, k, ffn=6, query_chunk=16)


def train(model, tokens):
    model.train()
    model.zero_grad()
    model(tokens)[0].sin().sum().backward()


def validate(model, tokens):
    with torch.no_grad():
        model.eval()(tokens)


def evaluate(model, tokens):
    """As fairseq-eval-lm does it."""
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": None}, "target": tokens}
    SequenceScorer(WORDS).generate([model.eval()], sample)


COUNTS = pytest.mark.skipif(not CAN_TRACK, reason="torch before 2.1 has other dispatch modes, and can't count bytes")


@COUNTS
@pytest.mark.parametrize("program", [train, validate, evaluate])
def test_no_tensor_has_all_words_by_all_words(program):
    model, tokens = long_language_model(**NO_DROPOUT), tokens_of(LENGTH)
    assert most_numbers(partial(program, model, tokens)) < LENGTH**2
    assert most_numbers(partial(program, with_stock_mask(model), tokens)) >= LENGTH**2
    assert model.decoder._future_mask.numel() == 0


@COUNTS
@pytest.mark.parametrize("self_attention", ["el", "kv"])
def test_nor_while_a_prompt_is_read(self_attention):
    model, tokens = enable_el_attention(long_language_model(), self_attention=self_attention), tokens_of(LENGTH)
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": torch.tensor([LENGTH])}}

    def decode():
        generator = ELSequenceGenerator([model], WORDS, beam_size=1, max_len_b=LENGTH + 2)
        generator.generate([model], sample, prefix_tokens=tokens, bos_token=WORDS.eos())

    assert most_numbers(decode) < LENGTH**2
    enable_topk_attention(model, 2 * LENGTH)  # all scores
    assert most_numbers(decode) >= LENGTH**2


def gradients(model, call):
    model.zero_grad()
    output = call(model)
    output.sin().sum().backward()
    return [output.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("arch", "changes", "options"),
    [
        *itertools.product(
            ["transformer", "bart_base"],
            [{}, {"decoder_layerdrop": 0.5}, {"checkpoint_activations": True}],
            [{}, {"full_context_alignment": True}],
        ),
        ("transformer_lm", {}, {}),
        ("transformer_lm", {"checkpoint_activations": True}, {}),
    ],
)
def test_values_and_gradients_are_the_same_numbers(arch, training, changes, options):
    """With more words than k and with fewer; with layers that are left out or computed again."""
    if arch == "transformer_lm":
        model = build_language_model(WORDS, seed=1, **NO_DROPOUT, **changes)
        calls = [partial(score_all, tokens=tokens_of(length, rows=2)) for length in (9, 3, 7)]
    else:
        model = build_model(arch, WORDS, 1, **NO_DROPOUT, **changes)
        samples = [batch(WORDS, [length, 3], seed=3)["net_input"] for length in (9, 3, 7)]
        calls = [partial(decode_all, net_input=sample, **options) for sample in samples]
    enable_topk_attention(model.train(training), 4, "decoder", query_chunk=3)
    twin = with_stock_mask(model)
    for call in calls:
        torch.manual_seed(1)
        mine = gradients(model, call)
        torch.manual_seed(1)
        expected = gradients(twin, call)
        assert len(mine) == len(expected) and all(torch.equal(*pair) for pair in zip(mine, expected))
        assert mine[0].isfinite().all()


def score_all(model, tokens):
    return model(tokens)[0]


def decode_all(model, net_input, **options):
    encoder_out = model.encoder(net_input["src_tokens"], net_input["src_lengths"])
    return model.decoder(net_input["src_tokens"].flip(1), encoder_out, **options)[0]


def test_masks_of_others_are_left_to_them():
    """Whoever may look at the mask gets fairseq's."""

    def spares(model, **options):
        enable_topk_attention(model, **{"attention": 3, **options})
        return "buffered_future_mask" in model.decoder.__dict__

    class OtherDecoder(TransformerDecoder):
        def buffered_future_mask(self, tensor):
            return super().buffered_future_mask(tensor) - 1

    assert spares(build_model("transformer", WORDS, seed=1))
    assert not spares(build_model("transformer", WORDS, seed=1), places="encoder,cross")
    assert not spares(build_model("transformer", WORDS, seed=1), attention=None, ffn=3)
    other, layer = build_model("transformer", WORDS, seed=1), build_model("transformer", WORDS, seed=1)
    other.decoder.__class__ = OtherDecoder
    layer.decoder.layers[1].__class__ = type("OtherLayer", (type(layer.decoder.layers[1]),), {"forward": None})
    ordinary = build_model("transformer", WORDS, seed=1)
    ordinary.decoder.cross_self_attention = True
    assert not any(map(spares, (other, layer, ordinary)))


def test_it_goes_with_top_k_attention():
    model = build_model("transformer", WORDS, seed=1)
    enable_topk_attention(model, 3)
    enable_topk_attention(model, 3, "encoder")
    assert "buffered_future_mask" not in model.decoder.__dict__
    enable_topk_attention(model, 2)
    enable_topk_attention(model, ffn=2)  # leaves attention as it is
    assert "buffered_future_mask" in model.decoder.__dict__
    disable_topk_attention(model)
    assert "buffered_future_mask" not in model.decoder.__dict__


@pytest.mark.parametrize("options", [{"need_weights": True}, {"need_head_weights": True}, {"before_softmax": True}])
def test_attention_that_is_asked_for_more_makes_the_mask_itself(options):
    """As layers of one's own may ask, in scoring."""
    model = enable_topk_attention(build_language_model(WORDS, seed=1), 3)
    attention = model.decoder.layers[0].self_attn
    x = torch.randn(7, 2, attention.embed_dim, dtype=torch.float64)
    stock = MultiheadAttention.forward if "before_softmax" in options else type(attention).forward
    whole = x.new_full((7, 7), float("-inf")).triu(1)
    mine = attention(x, x, x, attn_mask=x.new_full((1, 1), float("-inf")), static_kv=True, **options)
    expected = stock(attention, x, x, x, attn_mask=whole, static_kv=True, **options)
    assert all(torch.equal(*pair) for pair in zip(mine, expected))


@COUNTS
def test_bytes_of_a_whole_model_are_those_of_its_layers():
    """At most twice as many for each layer as one attention layer alone takes: inputs, gradients, what it keeps."""
    length, width, layers, k = 512, 32, 3, 16
    options = {"decoder_embed_dim": width, "decoder_attention_heads": 4, "decoder_layers": layers}
    model = long_language_model(decoder_ffn_embed_dim=4 * width, dtype=torch.float32, **options, **NO_DROPOUT)
    enable_topk_attention(model, k, ffn=k, query_chunk=64)
    of_model = peak_bytes(partial(train, model, tokens_of(length)), "cpu")
    layer = copy.deepcopy(model.decoder.layers[0].self_attn).train()
    x = torch.randn(length, 1, width, requires_grad=True)

    def attend():
        output, _ = layer(x, x, x, attn_mask=x.new_full((1, 1), float("-inf")))
        return torch.autograd.grad(output.sum(), [x, *layer.parameters()])

    assert of_model / layers <= 2 * peak_bytes(attend, "cpu")
    stock = with_stock_mask(model)
    assert peak_bytes(partial(train, stock, tokens_of(length)), "cpu") >= of_model + 4 * length**2


def test_el_attention_changes_nothing():
    model, tokens = long_language_model(**NO_DROPOUT), tokens_of(30)
    expected, x = model(tokens)[0], torch.zeros(30, 1, 1)
    enable_el_attention(model)
    assert torch.equal(model(tokens)[0], expected)
    assert model.decoder.buffered_future_mask(x).shape == (1, 1)
    disable_el_attention(disable_topk_attention(model))
    assert model.decoder.buffered_future_mask(x).shape == (30, 30)
