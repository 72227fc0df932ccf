"""Sliced training of the model: the same losses and gradients as in one piece."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from tiny import TinyTask, build_language_model, build_slim_performer, dictionary

from fairseq_el.errors import OptionError
from fairseq_el.ops import FEATURE_MAPS
from fairseq_el.slim import SlimCrossEntropyCriterion, slim_cross_entropy
from fairseq_el.slim.criterion import _check_model

WORDS = dictionary(11)
LENGTHS = [13, 9, 1]


def criterion(slice_length=0, report_accuracy=False):
    return SlimCrossEntropyCriterion(TinyTask(WORDS), False, slice_length, report_accuracy)


def make_sample(lengths=LENGTHS, seed=1):
    """Random words, each predicting the next, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((len(lengths), max(lengths) + 1), WORDS.pad())
    for row, length in zip(tokens, lengths):
        row[: length + 1] = torch.randint(WORDS.nspecial, len(WORDS), (length + 1,), generator=generator)
    source = tokens[:, :-1].clone()
    for row, length in zip(source, lengths):
        row[length:] = WORDS.pad()
    return {
        "net_input": {"src_tokens": source, "src_lengths": None},
        "target": tokens[:, 1:].contiguous(),
        "ntokens": sum(lengths),
    }


def gradients(model, criterion, *samples):
    model.zero_grad(set_to_none=True)
    losses = []
    for sample in samples:
        loss, _, logged = criterion(model, sample)
        loss.backward()
        losses.append(logged["loss"])
    return [parameter.grad for parameter in model.parameters()], losses


def assert_equal_gradients(mine, expected):
    for grad, full in zip(mine, expected):
        assert (grad - full).abs().max() <= 1e-9 * max(full.abs().max(), 1)


@pytest.mark.parametrize("name", FEATURE_MAPS)
@pytest.mark.parametrize("before", [False, True], ids=["norm after", "norm before"])
def test_gradients_do_not_depend_on_the_slice_length(name, before):
    model = build_slim_performer(WORDS, seed=2, feature_map=name, decoder_normalize_before=before)
    samples = [make_sample(), make_sample([4, 4], seed=2)]  # gradients of two batches are added up: --update-freq 2
    expected, losses = gradients(model, criterion(0), *samples)
    for slice_length in (1, 2, 3, 5, 12, 13, 50):
        mine, sliced_losses = gradients(model, criterion(slice_length), *samples)
        assert_equal_gradients(mine, expected)
        torch.testing.assert_close(sliced_losses, losses)


def test_features_that_are_drawn_anew_are_the_same_for_all_slices():
    """In each update: losses and gradients in slices are those of the whole sample; no two updates have the same."""
    model = build_slim_performer(WORDS, seed=2, feature_map="favor+", redraw_features=1)
    found = []
    for num_updates in range(3):
        model.set_num_updates(num_updates)  # as fairseq's task does, before all batches of an update
        samples = [make_sample(), make_sample([4, 4], seed=2)]
        expected, losses = gradients(model, criterion(0), *samples)
        for slice_length in (1, 5, 12):
            mine, sliced_losses = gradients(model, criterion(slice_length), *samples)
            assert_equal_gradients(mine, expected)
            torch.testing.assert_close(sliced_losses, losses, rtol=1e-10, atol=1e-12)
        found.append(float(losses[0]))
    assert len(set(found)) == 3


def test_without_slices_it_is_cross_entropy():
    model, sample = build_slim_performer(WORDS, seed=3, dtype=torch.float32), make_sample()
    stock, (expected,) = gradients(model, CrossEntropyCriterion(TinyTask(WORDS), False), sample)
    for slice_length in (0, 4):
        mine, (loss,) = gradients(model, criterion(slice_length), sample)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(mine, stock, rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_count_has_zero_gradients():
    """fairseq multiplies the loss of a worker's dummy batch by 0, in place."""
    model = build_slim_performer(WORDS, seed=3)
    loss, _, _ = criterion(4)(model, make_sample())
    loss *= 0
    loss.backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_accuracy():
    model, sample = build_slim_performer(WORDS, seed=4), make_sample()
    logits, _ = model(sample["net_input"]["src_tokens"])
    sample["target"][:, 3] = logits.argmax(dim=2)[:, 3]
    words = sample["net_input"]["src_tokens"] != WORDS.pad()
    sample["target"][~words] = WORDS.pad()
    expected = (logits.argmax(dim=2) == sample["target"])[words].sum()
    assert 2 <= expected < words.sum()
    for slice_length in (0, 1, 5):
        with torch.no_grad():
            _, _, logged = criterion(slice_length, report_accuracy=True)(model, sample)
        assert logged["n_correct"] == expected and logged["total"] == words.sum() == sum(LENGTHS)


def test_words_are_counted_in_the_forward_pass_alone():
    model, sample = build_slim_performer(WORDS, seed=4), make_sample()
    loss, num_correct = slim_cross_entropy(model.decoder, sample["net_input"]["src_tokens"], sample["target"], 4, True)
    with mock.patch.object(torch.Tensor, "argmax", side_effect=AssertionError("counted again")):
        loss.backward()
    assert num_correct.dtype == torch.int64


def test_without_words_there_is_no_loss():
    tokens = torch.zeros(2, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"at least one word; tokens have the shape \(2, 0\)"):
        slim_cross_entropy(build_slim_performer(WORDS, seed=4).decoder, tokens, tokens)


def test_other_models_are_refused():
    with pytest.raises(OptionError, match="is for --arch slim_performer_lm; the model is a TransformerLanguageModel"):
        criterion(4)(build_language_model(WORDS, seed=1), make_sample())


def test_a_negative_slice_length_is_refused():
    with pytest.raises(OptionError, match=r"--slice-length must be at least 1, or 0 .*; it is -3"):
        criterion(-3)


def test_data_parallel_of_torch_is_refused(monkeypatch):
    model = build_slim_performer(WORDS, seed=1)
    monkeypatch.setattr(torch.nn.parallel, "DistributedDataParallel", type(model))
    with pytest.raises(OptionError, match="needs --ddp-backend legacy_ddp"):
        criterion(4)(model, make_sample())


def test_automatic_mixed_precision_is_refused_with_slices(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda: True)
    with pytest.raises(OptionError, match="--slice-length can't be used with --amp"):
        criterion(4)(build_slim_performer(WORDS, seed=1), make_sample())
    _check_model(build_slim_performer(WORDS, seed=1), slice_length=0)


@pytest.mark.skipif(torch.__version__.startswith("1."), reason="torch 1 has no mixed layer norm on a CPU")
@pytest.mark.parametrize("name", FEATURE_MAPS)
def test_automatic_mixed_precision_leaves_attention_alone(name):
    model, sample = build_slim_performer(WORDS, seed=1, dtype=torch.float32, feature_map=name), make_sample()
    _, (loss,) = gradients(model, criterion(0), sample)
    dtypes = set()
    attend = model.decoder.layers[0]._attend

    def watch(x, padding, attend_all):
        def watched(layer, *inputs):
            output = attend_all(layer, *inputs)
            dtypes.update(tensor.dtype for tensor in (*inputs, output))
            return output

        return attend(x, padding, watched)

    model.decoder.layers[0]._attend = watch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine, (mixed,) = gradients(model, criterion(0), sample)
    assert dtypes == {torch.float32}
    assert 0 < abs(mixed - loss) < 0.02 * loss
    assert all(grad.isfinite().all() and grad.dtype == torch.float32 for grad in mine)


def test_without_padding_at_all_nothing_is_masked():
    """The same sentence alone, and beside a longer one."""
    model = build_slim_performer(WORDS, seed=5)
    both, alone = make_sample([9, 3]), make_sample([9, 3])
    alone["net_input"]["src_tokens"] = alone["net_input"]["src_tokens"][1:, :3]
    padded, _ = model(**both["net_input"])
    single, _ = model(**alone["net_input"])
    torch.testing.assert_close(single[0], padded[1, :3], rtol=1e-12, atol=1e-12)
