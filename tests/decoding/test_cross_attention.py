from __future__ import annotations

import copy

import pytest
import torch
from fairseq.modules import MultiheadAttention

from fairseq_el.decoding import ELCrossAttention


def make_attentions(encoder_dim=12, dtype=torch.float64, dropout=0.0, bias=True):
    """Stock encoder-decoder attention and the same as an EL module."""
    torch.manual_seed(0)
    stock = MultiheadAttention(
        16, 4, kdim=encoder_dim, vdim=encoder_dim, encoder_decoder_attention=True, dropout=dropout, bias=bias
    )
    for parameter in stock.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    stock = stock.to(dtype).eval()
    el = copy.deepcopy(stock)
    el.__class__ = ELCrossAttention
    return stock, el


def make_inputs(tgt_len=1, num_sentences=3, num_beams=4, src_len=7, encoder_dim=12):
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(tgt_len, num_sentences * num_beams, 16, generator=generator, dtype=torch.float64)
    memory = torch.randn(src_len, num_sentences, encoder_dim, generator=generator, dtype=torch.float64)
    mask = torch.zeros(num_sentences, src_len, dtype=torch.bool)
    mask[1, 4:] = True
    mask[2, :-1] = True  # everything masked but one
    return query, memory, mask


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tgt_len", [1, 3])
@pytest.mark.parametrize("need_head_weights", [True, False])
def test_equals_stock_and_caches_nothing(tgt_len, need_head_weights, bias):
    stock, el = make_attentions(bias=bias)
    query, memory, mask = make_inputs(tgt_len)
    expanded, expanded_mask = memory.repeat_interleave(4, dim=1), mask.repeat_interleave(4, dim=0)
    expected, expected_weights = stock(
        query, expanded, expanded, expanded_mask, {}, static_kv=True, need_head_weights=need_head_weights
    )
    state = {}
    output, weights = el(query, memory, memory, mask, state, static_kv=True, need_head_weights=need_head_weights)
    assert state == {}
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    assert weights.dtype == expected_weights.dtype and weights.shape == expected_weights.shape
    torch.testing.assert_close(weights, expected_weights)


def test_training_is_stock_attention():
    stock, el = make_attentions()
    query, memory, mask = make_inputs(tgt_len=5, num_beams=1)
    outputs = []
    for attention in (stock, el):
        attention.train()
        output, _ = attention(query, memory, memory, mask, static_kv=True)
        output.sum().backward()
        outputs.append(output)
    assert torch.equal(outputs[0], outputs[1])
    for mine, theirs in zip(el.parameters(), stock.parameters()):
        assert torch.equal(mine.grad, theirs.grad)


def test_retained_dropout_draws_what_stock_draws():
    stock, el = make_attentions(dropout=0.4)
    query, memory, mask = make_inputs()
    expanded, expanded_mask = memory.repeat_interleave(4, dim=1), mask.repeat_interleave(4, dim=0)
    for attention in (stock, el):
        attention.dropout_module.apply_during_inference = True
    torch.manual_seed(2)
    expected, _ = stock(query, expanded, expanded, expanded_mask, {}, static_kv=True)
    torch.manual_seed(2)
    output, _ = el(query, memory, memory, mask, {}, static_kv=True)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)
    without, _ = make_attentions()[1](query, memory, memory, mask, {}, static_kv=True)
    assert not torch.allclose(output, without)


def test_pruned_heads_are_exact():
    stock, _ = make_attentions()
    stock._adaptive_prune_heads([(4, 8), (12, 16)])
    stock._set_skip_embed_dim_check()
    el = copy.deepcopy(stock)
    el.__class__ = ELCrossAttention
    query, memory, _ = make_inputs()
    expanded = memory.repeat_interleave(4, dim=1)
    expected, _ = stock(query, expanded, expanded, None, {}, static_kv=True)
    output, _ = el(query, memory, memory, None, {}, static_kv=True)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-12)


def test_uneven_beams_are_refused():
    _, el = make_attentions()
    query, memory, mask = make_inputs()
    with pytest.raises(ValueError, match=r"11 queries for 3 encoder outputs"):
        el(query[:, :11], memory, memory, mask, {}, static_kv=True)


def test_arguments_that_decoding_does_not_have_are_refused():
    _, el = make_attentions()
    query, memory, mask = make_inputs()
    with pytest.raises(ValueError, match="before_softmax=True"):
        el(query, memory, memory, mask, {}, before_softmax=True)
    with pytest.raises(ValueError, match="key missing"):
        el(query, None, None, mask, {})
