"""Ratios, times per step, exponents, and how methods are named."""

from __future__ import annotations

import pytest

from fairseq_el.bench import parse_methods
from fairseq_el.bench.report import growth
from fairseq_el.errors import OptionError
from fairseq_el.measure import growth_exponent, rotated, spread, step_seconds, times_faster


def test_ratios_are_those_of_each_round():
    mine, baseline = [1.0, 4.0, 2.0], [3.0, 4.0, 10.0]
    ratios = times_faster(mine, baseline)
    assert (ratios.median, ratios.minimum, ratios.maximum) == (3.0, 1.0, 5.0)
    assert spread(baseline).median / spread(mine).median == 2.0  # the ratio of medians is another number


def test_what_both_lengths_take_is_not_in_the_time_of_a_step():
    encoder, step = 7.0, 0.5
    seconds = {length: [encoder + length * step, 1 + encoder + length * step] for length in (16, 4)}
    assert step_seconds(seconds) == [step, step]


def test_the_exponent_of_a_power_law():
    lengths = [128, 256, 512]
    assert growth_exponent(lengths, [3 * n**1.5 for n in lengths]) == pytest.approx(1.5)
    assert growth_exponent(lengths, [0.1, -0.1, 0.2]) is None
    assert growth_exponent([128, 128], [1, 2]) is None


def test_every_method_is_first_once():
    assert [rotated("abc", turn) for turn in range(4)] == [list("abc"), list("bca"), list("cab"), list("abc")]


def test_names_of_methods():
    methods = parse_methods("stock,el@bf16,ct2:int8,ct2:int8:2x1,hf,auto@int8", "fp32")
    assert [m.label for m in methods] == ["stock@fp32", "el@bf16", "ct2:int8", "ct2:int8:2x1", "hf@fp32", "auto@int8"]
    assert (methods[3].inter, methods[3].intra) == (2, 1)
    assert [m.stock_dtype for m in methods] == ["fp32", "bf16", "fp32", "fp32", "fp32", "fp32"]
    assert all(method.may_be_missing for method in parse_methods("all", "fp32"))


def test_names_of_methods_in_python():
    methods = parse_methods("shared-kv,shared-kv:python,el:python@bf16,auto:python@int8", "fp32")
    assert [m.label for m in methods] == [
        "shared-kv@fp32", "shared-kv:python@fp32", "el:python@bf16", "auto:python@int8",
    ]  # fmt: skip
    assert [m.in_python for m in methods] == [False, True, True, True]
    assert [m.kind for m in methods] == ["shared-kv", "shared-kv", "el", "auto"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stock,nothing", "must name methods out of stock, el, .* got 'nothing'"),
        ("stock@fp8", "dtype of a method must be one of fp16, .* got 'stock@fp8'"),
        ("stock@int8", "dtype of a method must be one of fp16, bf16, fp32, fp64; got 'stock@int8'"),
        ("el@int4", "dtype of a method must be one of fp16, bf16, fp32, fp64, int8; got 'el@int4'"),
        ("stock:python", "must name methods out of .* got 'stock:python'"),
        ("el:", "must name methods out of .* got 'el:'"),
        ("el:native", "must name methods out of .* got 'el:native'"),
        ("el:python@int4", "dtype of a method must be one of .*; got 'el:python@int4'"),
        ("el:python,el:python@fp32", "names el:python@fp32 2 times"),
        ("ct2", "ct2 needs a compute type"),
        ("ct2:int8:0x1", "threads of ct2 must be BATCHESxTHREADS"),
        ("el,stock,el@fp32", "names el@fp32 2 times"),
    ],
)
def test_names_that_are_none(text, message):
    with pytest.raises(OptionError, match=message):
        parse_methods(text, "fp32")


def test_growth_along_each_axis_where_the_other_is_largest():
    results = [
        {"method": "el", "batch": b, "src_len": n, "source_longest": n - 1, "step_seconds_median": 2 * b**0.5 * (n - 1)}
        for b in (1, 4, 16)
        for n in (128, 1024)
    ]
    assert growth(results, "source_longest") == {"el": pytest.approx(1)}
    assert growth(results, "batch") == {"el": pytest.approx(0.5)}
