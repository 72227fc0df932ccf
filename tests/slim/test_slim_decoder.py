from __future__ import annotations

import pytest
import torch
from tiny import build_slim_performer, dictionary

import fairseq_el
from fairseq_el.decoding import unsupported_reasons
from fairseq_el.errors import OptionError
from fairseq_el.ops import FEATURE_MAPS

WORDS = dictionary(11)


def random_tokens(rows, length, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(WORDS.nspecial, len(WORDS), (rows, length), generator=generator)


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("prompt", [1, 4])
def test_steps_give_what_a_pass_over_all_gives(name, prompt):
    """After a prompt in one pass; rows are reordered, dropped and doubled between steps, as beams are."""
    model, tokens, state = build_slim_performer(WORDS, seed=1, feature_map=name), random_tokens(3, 9), {}
    sizes = set()
    for length in range(prompt, 10):
        logits, _ = model.decoder(tokens[:, :length], incremental_state=state)
        expected, _ = model(tokens[:, :length])
        torch.testing.assert_close(logits[:, -1], expected[:, -1], rtol=1e-10, atol=1e-10)
        (sums,) = state.values()
        sizes.add(sum(tensor.numel() for tensor in sums.values()) // tokens.size(0))
        order = torch.tensor([[2, 0, 1], [1, 1, 0], [2, 0]][length % 3]) % tokens.size(0)
        model.decoder.reorder_incremental_state_scripting(state, order)
        tokens = tokens[order]
    assert sizes == {2 * 4 * (4 * 4 + 4)}  # layers, heads, M dh + M: however long the sequence


def test_padding_anywhere_is_not_seen():
    """What a padded position computes is nobody's business; what it would add to the sums is left out."""
    model, tokens = build_slim_performer(WORDS, seed=2), random_tokens(2, 7)
    tokens[0, 3] = WORDS.pad()
    with torch.no_grad():
        expected, _ = model(tokens)
        model.decoder.embed_tokens.weight[WORDS.pad()] = 5.0
        found, _ = model(tokens)
    others = [0, 1, 2, 4, 5, 6]
    torch.testing.assert_close(found[:, others], expected[:, others])
    assert not torch.allclose(found[0, 3], expected[0, 3])


def test_low_precision_sums_in_float32():
    model, tokens = build_slim_performer(WORDS, seed=3), random_tokens(2, 60)
    exact, _ = model(tokens)
    low, _ = model.bfloat16()(tokens)
    assert low.dtype == torch.bfloat16
    assert (low.double() - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_random_features_are_part_of_the_state_dict():
    options = {"feature_map": "favor+", "num_features": 6}
    model = build_slim_performer(WORDS, seed=1, feature_seed=1, **options)
    other = build_slim_performer(WORDS, seed=1, feature_seed=2, **options)
    assert model.state_dict()["decoder.layers.1.directions"].shape == (4, 6, 4)
    tokens = random_tokens(1, 5)
    assert not torch.allclose(other(tokens)[0], model(tokens)[0])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(tokens)[0], model(tokens)[0])


def directions_of(model):
    return torch.stack([layer.directions for layer in model.decoder.layers])


def test_random_features_are_drawn_anew():
    """Other ones in each layer and every time, but by the number of the update alone."""
    options = {"feature_map": "favor+", "num_features": 6}
    fixed = build_slim_performer(WORDS, seed=1, **options)
    first = directions_of(fixed).clone()
    fixed.set_num_updates(7)
    assert torch.equal(directions_of(fixed), first)
    model = build_slim_performer(WORDS, seed=1, redraw_features=3, **options)
    assert torch.equal(directions_of(model), first)
    drawn = []
    for num_updates in range(9):
        model.set_num_updates(num_updates)
        drawn.append(directions_of(model).clone())
    different = {tuple(directions.flatten().tolist()) for draw in drawn for directions in draw}
    assert len(different) == 3 * 2 and all(torch.equal(drawn[i], drawn[i // 3 * 3]) for i in range(9))
    assert torch.equal(drawn[0], first)
    blocks = drawn[4][:, :, :4]  # of as many directions as a head is wide: orthogonal to each other
    products = blocks @ blocks.transpose(2, 3)
    assert (products - torch.diag_embed(products.diagonal(dim1=2, dim2=3))).abs().max() < 1e-6
    resumed = build_slim_performer(WORDS, seed=1, redraw_features=3, **options)
    resumed.load_state_dict(model.state_dict())
    assert torch.equal(directions_of(resumed), drawn[8])  # what is loaded is decoded with what it was saved with
    resumed.set_num_updates(4)
    assert torch.equal(directions_of(resumed), drawn[4])


def test_el_attention_has_nothing_to_do_in_it():
    model = build_slim_performer(WORDS, seed=1)
    before = set(model.decoder.__dict__)
    assert fairseq_el.enable_el_attention(model, backend="auto", self_attention="el") is model
    assert not fairseq_el.el_attention_enabled(model) and set(model.decoder.__dict__) == before
    (reason,) = unsupported_reasons(model)
    assert "SLiM Performer" in reason


def test_settings_that_make_no_model():
    options = {"decoder_embed_dim": 18, "decoder_attention_heads": 4, "decoder_layers": 0, "dropout": 0.1}
    with pytest.raises(OptionError) as caught:
        build_slim_performer(WORDS, 1, num_features=-1, feature_map="exp", **options)
    for problem in (
        "--decoder-embed-dim must be a multiple of 4: half of it are pairs of sinusoids; it is 18",
        "--decoder-attention-heads must divide --decoder-embed-dim, 18; it is 4",
        "--decoder-layers must be at least 1; it is 0",
        "--feature-map must be one of sqr, relu, elu+1, favor+; it is exp",
        "--num-features must be at least 1, or 0 for the width of a head; it is -1",
        "--dropout must be 0: a slice is run twice and must compute the same both times; it is 0.1",
    ):
        assert problem in str(caught.value)
    with pytest.raises(OptionError, match=r"--num-features is for --feature-map favor\+; with sqr"):
        build_slim_performer(WORDS, 1, num_features=3)
    with pytest.raises(OptionError, match=r"--redraw-features is for --feature-map favor\+; relu draws none"):
        build_slim_performer(WORDS, 1, redraw_features=1, feature_map="relu")
    with pytest.raises(OptionError, match="--redraw-features must be at least 1, or 0 for never; it is -1"):
        build_slim_performer(WORDS, 1, redraw_features=-1, feature_map="favor+")
