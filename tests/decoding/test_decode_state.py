from __future__ import annotations

import pytest
import torch
from fairseq.modules import MultiheadAttention
from reference import multihead_attention

from fairseq_el.decoding import DecodeState, ELSelfAttention, KVSelfAttention
from fairseq_el.decoding.beam_tree import BeamTree
from fairseq_el.policy import capacity_for

NUM_SENTENCES, WIDTH, NUM_HEADS = 3, 8, 2
SWITCHES = {
    "all beams from the last one": lambda step, b, g: torch.full((NUM_SENTENCES, b), b - 1),
    "alternating": lambda step, b, g: torch.arange(b).roll(step % 2 + 1).expand(NUM_SENTENCES, -1),
    "random": lambda step, b, g: torch.randint(b, (NUM_SENTENCES, b), generator=g),
    "now from one, now each from itself": lambda step, b, g: (
        torch.full((NUM_SENTENCES, b), step % b) if step % 7 == 0 else torch.arange(b).expand(NUM_SENTENCES, -1)
    ),
    "never": lambda step, b, g: torch.arange(b).expand(NUM_SENTENCES, -1),
}


def self_attention(kind, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    attention = MultiheadAttention(WIDTH, NUM_HEADS, self_attention=True).to(dtype).eval()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=WIDTH**-0.5 if parameter.dim() > 1 else 0.3)
    attention.__class__ = kind
    return attention


class NaiveCache:
    """Every beam's whole past, beam by beam, with the reference attention: what the tree must equal."""

    def __init__(self, attention):
        self.attention = attention
        self.past: list[list[torch.Tensor]] = []  # of each row

    def step(self, x):
        """``x`` and the result: ``(rows, d)``."""
        self.past = self.past or [[] for _ in x]
        a, outputs = self.attention, []
        for row, past in zip(x, self.past):
            past.append(row)
            query = (a.q_proj(row) * a.scaling).view(1, 1, NUM_HEADS, -1)
            memory = torch.stack(past).unsqueeze(0)
            key, value = a.k_proj, a.v_proj
            output, _ = multihead_attention(query, memory, key.weight, key.bias, value.weight, value.bias)
            outputs.append(a.out_proj(output.reshape(-1)))
        return torch.stack(outputs)

    def reorder(self, rows):
        self.past = [list(self.past[row]) for row in rows.tolist()]


def rows_of(parents):
    """``(B, b)`` beams within their sentence to rows ``(B * b)``."""
    return (parents + torch.arange(parents.size(0)).unsqueeze(1) * parents.size(1)).reshape(-1)


def with_a_precise_softmax(monkeypatch):
    """Lets the modules' softmax be as precise as their dtype, to see more digits than stock's float32 shows."""
    import fairseq_el.decoding.attention as module

    for name in ("el_attention", "kv_attention"):
        op = getattr(module, name)

        def precise(*args, op=op, **kwargs):
            kwargs.pop("softmax_dtype", None)
            return op(*[arg for arg in args if not isinstance(arg, torch.dtype)], **kwargs)

        monkeypatch.setattr(module, name, precise)


@pytest.mark.parametrize("kind", [ELSelfAttention, KVSelfAttention])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("beam_size", [1, 4])
def test_200_steps_of_switching_beams_equal_a_cache_per_beam(kind, switch, beam_size, monkeypatch):
    with_a_precise_softmax(monkeypatch)
    attention = self_attention(kind)
    naive = NaiveCache(attention)
    state, generator = DecodeState(NUM_SENTENCES, beam_size), torch.Generator().manual_seed(1)
    incremental_state: dict = {}
    most = 0  # living nodes of a sentence, ever
    state.put_into(incremental_state)
    with torch.no_grad():
        for step in range(200):
            x = torch.randn(NUM_SENTENCES * beam_size, WIDTH, generator=generator, dtype=torch.float64)
            state.begin_step(x.device)
            output, _ = attention(x.unsqueeze(0), None, None, incremental_state=incremental_state)
            torch.testing.assert_close(output[0], naive.step(x), rtol=1e-10, atol=1e-10)
            rows = rows_of(SWITCHES[switch](step, beam_size, generator))
            state.reorder(rows)
            naive.reorder(rows)
            living = [
                len({id(word) for past in naive.past[s * beam_size : (s + 1) * beam_size] for word in past})
                for s in range(NUM_SENTENCES)
            ]
            tree = state.tree
            assert tree.living_nodes().tolist() == living  # exactly the words that some beam descends from
            most = max([most, *living])
            assert max(living) <= tree.num_nodes <= tree.capacity <= capacity_for(most + beam_size, beam_size)


@pytest.mark.parametrize("kind", [ELSelfAttention, KVSelfAttention])
def test_finished_sentences_leave_and_bytes_are_exact(kind, monkeypatch):
    with_a_precise_softmax(monkeypatch)
    attention, beam_size = self_attention(kind), 3
    naive = NaiveCache(attention)
    state, incremental_state = DecodeState(NUM_SENTENCES, beam_size), {}
    state.put_into(incremental_state)
    generator = torch.Generator().manual_seed(2)
    assert state.size_bytes() == state.capacity_bytes() == 0
    numbers = WIDTH if kind is ELSelfAttention else 2 * WIDTH  # of a node
    num_sentences, allocated = NUM_SENTENCES, []  # pools get new storage when they are full
    make_room = BeamTree._make_room
    monkeypatch.setattr(BeamTree, "_make_room", lambda s: (make_room(s), allocated.append(s.num_sentences)))
    with torch.no_grad():
        for step in range(40):
            x = torch.randn(num_sentences * beam_size, WIDTH, generator=generator, dtype=torch.float64)
            state.begin_step(x.device)
            output, _ = attention(x.unsqueeze(0), None, None, incremental_state=incremental_state)
            torch.testing.assert_close(output[0], naive.step(x), rtol=1e-10, atol=1e-10)
            assert state.size_bytes() == num_sentences * state.tree.num_nodes * (numbers * 8 + beam_size)  # float64
            ancestry = num_sentences * beam_size  # a byte each
            assert state.capacity_bytes() == state.tree.capacity * (allocated[-1] * numbers * 8 + ancestry)
            stay = [s for s in range(num_sentences) if not (step in (9, 20) and s == 1)]
            rows = rows_of(torch.randint(beam_size, (num_sentences, beam_size), generator=generator))
            rows = rows.view(num_sentences, beam_size)[stay].reshape(-1)
            state.reorder(rows)
            naive.reorder(rows)
            num_sentences = len(stay)
    assert num_sentences == state.num_sentences == 1


@pytest.mark.parametrize("kind", [ELSelfAttention, KVSelfAttention])
def test_prompts_are_read_in_parts_and_stored_once(kind, monkeypatch):
    """Prompts of different lengths, then steps in which one sentence is still within its prompt."""
    with_a_precise_softmax(monkeypatch)
    attention, beam_size, lengths = self_attention(kind), 2, torch.tensor([3, 5, 4])
    naive = NaiveCache(attention)
    generator = torch.Generator().manual_seed(3)
    words = torch.randn(NUM_SENTENCES, 5, WIDTH, generator=generator, dtype=torch.float64)
    state, incremental_state = DecodeState(NUM_SENTENCES, beam_size), {}
    state.put_into(incremental_state)
    with torch.no_grad():
        outputs = []
        for part in (slice(0, 2), slice(2, 3)):
            state.begin_prompt(5, lengths, words.device, part)
            output, _ = attention(words[part].transpose(0, 1), None, None, incremental_state=incremental_state)
            outputs.append(output.transpose(0, 1))
        assert state.tree.num_nodes == 5 and state.tree.living_nodes().tolist() == lengths.tolist()
        prompt = torch.cat(outputs)
        for position in range(8):
            x = torch.randn(NUM_SENTENCES * beam_size, WIDTH, generator=generator, dtype=torch.float64)
            in_prompt = position < lengths
            if position < 5:
                forced = in_prompt.repeat_interleave(beam_size).unsqueeze(1)
                x = torch.where(forced, words[:, position].repeat_interleave(beam_size, dim=0), x)
            expected = naive.step(x).view(NUM_SENTENCES, beam_size, WIDTH)
            if position < 5:
                torch.testing.assert_close(prompt[in_prompt, position], expected[in_prompt, 0], rtol=1e-10, atol=1e-10)
            if position < 3:
                continue  # every sentence is within its prompt
            state.begin_step(x.device, ~in_prompt if position < 5 else None)
            output, _ = attention(x.unsqueeze(0), None, None, incremental_state=incremental_state)
            mine = output.view(NUM_SENTENCES, beam_size, WIDTH)
            torch.testing.assert_close(mine[~in_prompt], expected[~in_prompt], rtol=1e-10, atol=1e-10)
            rows = rows_of(torch.randint(beam_size, (NUM_SENTENCES, beam_size), generator=generator))
            state.reorder(rows)
            naive.reorder(rows)


def test_reordering_copies_the_mask_only():
    attention, beam_size = self_attention(ELSelfAttention, dtype=torch.float32), 4
    state, incremental_state = DecodeState(NUM_SENTENCES, beam_size), {}
    state.put_into(incremental_state)
    with torch.no_grad():
        for _ in range(30):
            state.begin_step(torch.device("cpu"))
            attention(torch.randn(1, NUM_SENTENCES * beam_size, WIDTH), None, None, incremental_state=incremental_state)
            (pool,) = state.tree._pools[attention._incremental_state_id]
            before, copied = pool.data_ptr(), state.tree.reorder_bytes
            state.reorder(rows_of(torch.zeros(NUM_SENTENCES, beam_size, dtype=torch.long)))
            assert state.tree._pools[attention._incremental_state_id][0].data_ptr() == before
            assert state.tree.reorder_bytes - copied == NUM_SENTENCES * beam_size * state.tree.capacity
    assert 0 < state.tree.compaction_bytes <= 30 * pool.numel() * 4


def test_pools_do_not_outgrow_the_last_step():
    state = DecodeState(NUM_SENTENCES, 4, max_steps=5)
    for _ in range(5):
        state.begin_step(torch.device("cpu"))
    assert state.tree.capacity == state.tree.num_nodes == 20


def test_a_mask_is_made_once_in_a_pass():
    state = DecodeState(2, 3)
    state.begin_step(torch.device("cpu"))
    first = state.current
    masks = [first.attn_mask(first.hidden, torch.float32) for _ in range(2)]
    assert masks[0] is masks[1] and torch.equal(masks[0] == -torch.inf, first.hidden)
    assert first.attn_mask(first.hidden, torch.float64) is first.hidden  # its softmax, in float32, must see it
    assert first.attn_mask(None, torch.float32) is None
    state.begin_step(torch.device("cpu"))
    later = state.current.attn_mask(state.current.hidden, torch.float32)
    assert later.size(2) == 6 and torch.equal(later == -torch.inf, state.current.hidden)


def test_nothing_to_reorder_yet():
    with pytest.raises(ValueError, match="has not run a step"):
        DecodeState(2, 2).reorder(torch.arange(4))
