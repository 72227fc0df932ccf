"""``benchmarks/topk_layers.py``: what it computes, counts, compares and refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import exact_and_topk_layers
import pytest
import topk_layers
import torch
from authors_topk_attention import authors_topk_attention
from exact_and_topk_layers import HAS_SDPA, AttentionLayers, BlockLayers, FeedForwardLayers, LayerMethod
from topk_measuring import DIRECTIONS, TopkSettings, measure_topk_layers

from fairseq_el.errors import FairseqElError
from fairseq_el.measure import CAN_TRACK

ATTENTION = AttentionLayers(length=48, layers=2, heads=2, head_dim=4, k=6, chunk=16)
BLOCK = BlockLayers(length=48, layers=2, hidden=40, heads=2, head_dim=4, k=6, hidden_k=8, chunk=16, dropout=0.1)
PROJECTED = replace(BLOCK, hidden=0)
FEED_FORWARD = FeedForwardLayers(tokens=24, hidden=40, layers=2, width=6, k=8, chunk=10)


def settings_for(layers, **changes):
    methods = tuple(LayerMethod(name) for name in layers.methods if name != "sdpa" or HAS_SDPA)
    settings = TopkSettings((layers,), methods, LayerMethod("chunked"), DIRECTIONS, runs=0, memory=1 << 30)
    return replace(settings, **changes)


@pytest.mark.parametrize(
    ("layers", "dtype"),
    [
        (ATTENTION, "fp32"),
        (replace(ATTENTION, causal=False), "fp32"),
        (ATTENTION, "bf16"),
        (FEED_FORWARD, "bf16"),
        (BLOCK, "fp32"),
        (replace(PROJECTED, causal=False), "fp32"),
    ],
)
def test_outputs_are_those_of_the_twins_and_everything_is_counted_and_timed(layers, dtype):
    results = measure_topk_layers(settings_for(layers, runs=2, dtype=dtype))
    assert {(r.method.kind, r.direction) for r in results} >= {
        (kind, direction) for kind in ("vanilla", "chunked", "topk") for direction in ("forward", "both")
    }
    for result in results:
        assert result.sizes == layers.sizes and len(result.seconds) == 2 and result.median > 0
        assert (result.peak_bytes is not None) == CAN_TRACK
        if result.method == LayerMethod("chunked"):
            assert result.faster.minimum == result.faster.maximum == 1


@pytest.mark.parametrize("layers", [ATTENTION, FEED_FORWARD])
@pytest.mark.parametrize("wrong", ["output", "gradient", "rounding"])
def test_nothing_is_timed_where_outputs_are_wrong(layers, wrong, monkeypatch):
    class Drift(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            broken = wrong == "output" or (wrong == "rounding" and x.dtype == torch.float32)
            return x * 1.1 if broken else x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * 1.1 if wrong == "gradient" else grad

    for name in ("topk_attention", "topk_feed_forward"):
        right = getattr(exact_and_topk_layers, name)
        drifting = lambda *x, right=right, **options: Drift.apply(right(*x, **options))  # noqa: E731
        monkeypatch.setattr(exact_and_topk_layers, name, drifting)
    message = "is off in fp32 by" if wrong == "rounding" else "differs in float64 by"
    with pytest.raises(FairseqElError, match=f"topk, .*: an output or gradient {message} .* so no times are reported"):
        measure_topk_layers(settings_for(layers))


@pytest.mark.skipif(not CAN_TRACK, reason="torch before 2.1 can't be asked how long a storage lives")
def test_bytes_of_vanilla_attention_by_formula():
    """Forward: what is given, scores, their softmax, the mask, the output."""
    layers = replace(ATTENTION, length=64, layers=1)
    method = LayerMethod("vanilla")
    vanilla = settings_for(layers, methods=(method,), baseline=method, directions=("forward",))
    (result,) = measure_topk_layers(vanilla)
    given, scores = 3 * 2 * 64 * 4 * 4, 2 * 64 * 64 * 4
    assert result.given_bytes == given
    assert result.peak_bytes == given + 2 * scores + 64 * 64 + given // 3


def test_dropout_is_of_the_measured_passes_alone():
    """Two passes of a method differ; without dropout they do not."""
    inputs = BLOCK.inputs(torch.randn)
    for name in BLOCK.methods:
        if name == "sdpa" and not HAS_SDPA:
            continue
        for layers, same in ((BLOCK, False), (BLOCK.small(48), True)):
            outputs = [layers.output(LayerMethod(name), inputs) for _ in range(2)]
            assert torch.equal(*outputs) is same, name


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_authors_way_with_dropout(dropout):
    """Its own gradients are those of what it drew: of numbers one by one."""
    query, key, value = (torch.randn(1, 1, 7, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def attend(query, key, value):
        torch.manual_seed(4)
        return authors_topk_attention(query, key, value, k=3, causal=True, chunk=4, dropout=dropout)

    assert torch.autograd.gradcheck(attend, (query, key, value))


def test_methods_that_need_too_much_are_left_out_with_what_they_need():
    layers = replace(ATTENTION, length=512, layers=1)
    results = measure_topk_layers(settings_for(layers, directions=("both",), memory=1 << 20, runs=1))
    left_out = {r.method.kind: r.expected_bytes for r in results if r.expected_bytes is not None}
    assert left_out == {"vanilla": 4 * 2 * 512 * 512 * 4 + results[0].given_bytes}
    assert results[0].peak_bytes is None and not results[0].seconds


def bench(*arguments):
    return topk_layers.main(["--threads", "1", *map(str, arguments)])


@pytest.mark.parametrize("kind", ["attention", "feed-forward", "block"])
def test_the_command(kind, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install fairseq_el[bench]")
    sizes = {
        "attention": ["--lengths", "16,24", "--heads", 2, "--head-dim", 4, "--k", 3, "--layers", "1,2"],
        "block": ["--block", "--lengths", 20, "--hidden", "8,16", "--heads", 2, "--head-dim", 4, "--dropout", 0.1],
        "feed-forward": ["--feed-forward", "--tokens", 20, "--hidden", "8,16", "--width", 4, "--k", 3],
    }[kind]
    arguments = [*sizes, "--methods", "chunked,chunked:8,topk:2", "--runs", 1, "--baseline", "chunked:8"]
    files = ["--out", tmp_path] if kind == "attention" else ["--out", tmp_path, "--plot", tmp_path / "other.png"]
    files += ["--directions", "both"]
    assert bench(*arguments, *files, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "topk.json").read_text())
    assert len(report["results"]) == 3 * (4 if kind == "attention" else 2)
    assert all(result["seconds_median"] > 0 for result in report["results"])
    assert report["settings"]["command"].startswith("python benchmarks/topk_layers.py ")
    table = (tmp_path / "topk.md").read_text()
    assert "chunked:8" in table and "as chunked:8" in table and "of the baseline" in table
    if CAN_TRACK:
        assert "Fitted growth of live bytes with " + ("length" if kind == "attention" else "hidden") in table
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == (1 if kind == "attention" else 2)
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert bench(*arguments, *files) == 2 and "already; choose another" in capsys.readouterr().err


@pytest.mark.skipif(not CAN_TRACK, reason="torch before 2.1 counts no bytes, and must time")
def test_nothing_to_draw(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install fairseq_el[bench]")
    options = ["--lengths", 16, "--methods", "vanilla", "--memory", "1KiB", "--plot", tmp_path / "a.png"]
    assert bench(*options) == 1
    printed = capsys.readouterr()
    assert "there is nothing to draw in" in printed.err and "vanilla" in printed.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "topk,fast"], "--methods must name methods out of vanilla, chunked, topk, sdpa.*got 'fast'"),
        (["--methods", "vanilla:3"], "--methods must name methods out of .* got 'vanilla:3'"),
        (["--methods", "topk:0"], "--methods must name methods out of .* got 'topk:0'"),
        (["--feed-forward", "--methods", "sdpa"], "--methods must name methods out of vanilla, chunked, topk, where"),
        (["--methods", "topk,topk"], "--methods must name every method once; got topk,topk"),
        (["--methods", "topk", "--baseline", "vanilla"], "--baseline must be one of the methods, topk; got vanilla"),
        (
            ["--methods", "vanilla,topk", "--baseline", "topk,vanilla"],
            "--baseline must be one of the .*got topk,vanilla",
        ),
        (["--block", "--feed-forward"], "--feed-forward and --block are different layers; give one of them"),
        (["--block", "--projections"], "--projections and --block are different layers; give one of them"),
        (["--methods", "authors"], "--methods must name methods out of .*got 'authors'"),
        (["--dropout", "0.1"], "--dropout is for --projections and --block; got 0.1 without them"),
        (["--block", "--dropout", "1"], "--dropout: must be at least 0 and below 1; got '1'"),
        (["--block", "--batch", "2"], "--batch must be 1 with --projections and --block; got 2"),
        (["--block", "--hidden", "0"], "must be a whole number from 1 on; got '0'"),
        (["--directions", "back"], "must name directions out of forward, both; got 'back'"),
        (["--lengths", "8,1"], "--lengths must be at least 2"),
        (["--k", "0"], "must be a whole number from 1 on; got '0'"),
        (["--memory", "much"], "a size is a number with a unit"),
    ],
)
def test_bad_options(options, message, capsys):
    try:
        status = bench(*options)
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
