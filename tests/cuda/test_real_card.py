"""On a real card; skipped where there is none. docs/benchmarks.md says what was seen on which one."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import reference
import torch
from fairseq import utils
from fairseq.sequence_generator import SequenceGenerator
from tiny import batch, build_language_model, build_model, build_slim_performer, dictionary

from fairseq_el import policy
from fairseq_el.decoding import enable_el_attention
from fairseq_el.decoding.beam_tree import BeamTree
from fairseq_el.generation import ELSequenceGenerator, static_search
from fairseq_el.ops import (
    block_repeated_ngrams,
    el_attention,
    kv_attention,
    log_probabilities,
    top_of_rows,
    topk_attention,
    topk_feed_forward,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card that torch can use")

WORDS = dictionary()
LENGTHS = [9, 2, 12, 5, 7]
BACKENDS = pytest.mark.parametrize("backend", ["el", "shared-kv", "auto"])
SELF_ATTENTION = pytest.mark.parametrize("self_attention", ["el", "kv"])


def on_card(sample):
    """Waits for the copy; fairseq's ``move_to_cuda`` does not, and nothing else holds these tensors."""
    return utils.apply_to_sample(lambda tensor: tensor.to("cuda"), sample)


def decode(generator, model):
    sample = on_card(batch(WORDS, LENGTHS, seed=3))
    found = generator.generate([model], sample)
    return [[(h["tokens"].tolist(), float(h["score"])) for h in hypotheses] for hypotheses in found]


@BACKENDS
@SELF_ATTENTION
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("arch", ["transformer", "bart_base"])
def test_stocks_hypotheses_in_float64(arch, beam, self_attention, backend):
    model = build_model(arch, WORDS, seed=1).to("cuda")
    options = {"beam_size": beam, "max_len_b": 20, "min_len": 2}
    expected = decode(SequenceGenerator([model], WORDS, **options), model)
    enable_el_attention(model, self_attention=self_attention, backend=backend)
    mine = decode(ELSequenceGenerator([model], WORDS, **options), model)
    assert [[tokens for tokens, _ in sentence] for sentence in mine] == [[t for t, _ in s] for s in expected]
    for sentence, theirs in zip(mine, expected):
        assert [score for _, score in sentence] == pytest.approx([score for _, score in theirs], rel=1e-5)


@BACKENDS
@SELF_ATTENTION
def test_the_same_batch_gives_the_same_bits(self_attention, backend):
    """cuDNN's attention, which torch prefers on some cards, does not."""
    model = build_model("transformer", WORDS, 1, torch.float16, encoder_embed_dim=64, decoder_embed_dim=64).to("cuda")
    enable_el_attention(model, self_attention=self_attention, backend=backend)
    generator = ELSequenceGenerator([model], WORDS, beam_size=4, max_len_b=40, min_len=40, max_len=60)
    first = decode(generator, model)
    assert all(decode(generator, model) == first for _ in range(5))


@pytest.mark.parametrize("ngrams", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@BACKENDS
@SELF_ATTENTION
def test_graphs_give_the_hypotheses_of_steps_in_place(self_attention, backend, dtype, ngrams, monkeypatch):
    """To the last bit; and in float32 the words of the usual steps."""
    captures, capture = [], static_search.captured
    monkeypatch.setattr(static_search, "captured", lambda *given: (captures.append(given), capture(*given))[1])
    monkeypatch.setattr(policy, "STEPS_OF_ROOM", 8)
    model = build_model("transformer", WORDS, 1, dtype, encoder_embed_dim=64, decoder_embed_dim=64).to("cuda")
    enable_el_attention(model, self_attention=self_attention, backend=backend)
    generator = ELSequenceGenerator([model], WORDS, beam_size=4, max_len_b=40, min_len=12, no_repeat_ngram_size=ngrams)
    generator.record_attention = False
    generator.cuda_graphs = "off"
    usual = decode(generator, model)
    generator.cuda_graphs = "auto"
    replayed = [decode(generator, model) for _ in range(2)]
    assert len(captures) > 2
    monkeypatch.setattr(static_search.StaticSearch, "captures", False)
    assert replayed == [decode(generator, model)] * 2
    if dtype == torch.float32:
        assert [[tokens for tokens, _ in each] for each in replayed[0]] == [[t for t, _ in each] for each in usual]


@BACKENDS
@SELF_ATTENTION
@pytest.mark.parametrize("architecture", ["transformer", "transformer_lm"])
def test_the_host_waits_once_in_a_step(architecture, self_attention, backend, monkeypatch):
    """And for the living nodes, whenever pools are full: counted by torch, as the difference of two lengths.

    With CUDA graphs it does not wait for a step: language models waited once more in 42 words than in 12.
    """
    build = build_language_model if architecture == "transformer_lm" else partial(build_model, architecture)
    model = build(WORDS, seed=1, dtype=torch.float16).to("cuda")
    enable_el_attention(model, self_attention=self_attention, backend=backend)
    full_pools = []
    make_room = BeamTree._make_room
    monkeypatch.setattr(BeamTree, "_make_room", lambda tree: (full_pools.append(1), make_room(tree)))
    counts = []
    for length in (12, 42):
        generate = _forced_to(model, length)
        generate()
        full_pools.clear()
        counts.append(_waits(generate) - len(full_pools))
    assert counts[1] - counts[0] == 30


def test_the_host_waits_once_in_a_step_of_a_slim_performer():
    model = build_slim_performer(WORDS, seed=1, dtype=torch.float16).to("cuda")
    counts = []
    for length in (12, 42):
        generate = _forced_to(model, length)
        generate()
        counts.append(_waits(generate))
    assert counts[1] - counts[0] == 30


def _forced_to(model, length):
    """Decodes outputs of one length, with n-grams blocked."""
    generator = ELSequenceGenerator(
        [model], WORDS, beam_size=4, max_len_b=length, min_len=length, no_repeat_ngram_size=3, max_len=60
    )
    generator.cuda_graphs = "off"
    sample = on_card(batch(WORDS, LENGTHS, seed=3))
    if not hasattr(model, "encoder"):
        sample["net_input"]["src_tokens"] = sample["net_input"]["src_tokens"][:, -1:]
    return lambda: generator.generate([model], sample)


def _waits(function):
    """How often the host waits for the card."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_rounding_is_at_most_twice_that_of_plain_attention(padded, dtype):
    """Errors against float64 on the host, of EL-attention and of attention over keys and values."""
    num_sentences, num_beams, num_heads, head_dim, width, src_len = 3, 4, 8, 64, 512, 200
    torch.manual_seed(1)
    query = torch.randn(num_sentences, num_beams, num_heads, head_dim, dtype=torch.float64) * head_dim**-0.5
    memory = torch.randn(num_sentences, src_len, width, dtype=torch.float64)
    weights = [torch.randn(num_heads * head_dim, width, dtype=torch.float64) * width**-0.5 for _ in range(2)]
    query, memory, *weights = (tensor.to(dtype).double() for tensor in (query, memory, *weights))
    mask = torch.arange(src_len) >= torch.tensor([[200], [150], [1]]) if padded else None
    exact, _ = reference.multihead_attention(query, memory, weights[0], None, weights[1], None, mask)
    q, h, wk, wv = (tensor.to("cuda").to(dtype) for tensor in (query, memory, *weights))
    on_card = None if mask is None else mask.to("cuda")
    plain, _ = reference.multihead_attention(q, h, wk, None, wv, None, on_card)
    shape = (num_sentences, src_len, num_heads, head_dim)
    key, value = ((h @ w.T).view(shape).transpose(1, 2) for w in (wk, wv))
    hidden = None if on_card is None else on_card.unsqueeze(1)
    el, _ = el_attention(q, h, wk, wv, key_padding_mask=on_card, softmax_dtype=torch.float32, need_weights=False)
    for mine in (el, kv_attention(q, key, value, hidden, torch.float32)):
        assert rms(mine, exact) <= 2 * rms(plain, exact)


def rms(mine, exact):
    return float((mine.double().cpu() - exact).square().mean().sqrt())


def test_the_choice_of_words_as_on_the_host():
    torch.manual_seed(1)
    logits, tokens = torch.randn(40, 50_264), torch.randint(4, 9, (40, 30))
    mine = block_repeated_ngrams(logits.to("cuda"), tokens.to("cuda"), 3)
    assert torch.equal(mine.cpu(), block_repeated_ngrams(logits, tokens, 3))
    values, columns = top_of_rows(mine, 8)
    assert torch.equal(values, mine.gather(1, columns)) and torch.equal(values, torch.topk(mine, 8, dim=1)[0])
    with torch.no_grad():
        for given in (mine, mine.half()):
            expected = utils.log_softmax(given.unsqueeze(1), dim=-1)[:, -1]
            assert torch.equal(log_probabilities(given.clone()), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_topk_attention_as_on_the_host(causal):
    torch.manual_seed(1)
    hidden = torch.arange(300) >= torch.tensor([[300], [211]])
    results = []
    tensors = [torch.randn(2, 4, 300, 16, dtype=torch.float64) for _ in range(3)]
    for device in ("cpu", "cuda"):
        given = [x.to(device).requires_grad_() for x in tensors]
        options = {"key_padding_mask": hidden.to(device), "causal": causal, "query_chunk": 70}
        output = topk_attention(*given, 17, **options)
        results.append([output.cpu(), *(grad.cpu() for grad in torch.autograd.grad(output.sin().sum(), given))])
    for mine, expected in zip(*results):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_topk_feed_forward_as_on_the_host():
    torch.manual_seed(1)
    shapes = [(500, 16), (64, 16), (64,), (16, 64), (16,)]
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    results = []
    for device in ("cpu", "cuda"):
        given = [x.to(device).requires_grad_() for x in tensors]
        output = topk_feed_forward(*given, 20, activation="gelu", chunk=130)
        results.append([output.cpu(), *(grad.cpu() for grad in torch.autograd.grad(output.sin().sum(), given))])
    for mine, expected in zip(*results):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)
