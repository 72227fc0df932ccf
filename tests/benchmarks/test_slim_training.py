"""``benchmarks/slim_training.py``: what it counts, compares and refuses."""

from __future__ import annotations

import json

import pytest
import slim_measuring
import torch
from slim_measuring import SlimSettings, build_decoder, measure_slim_training
from slim_training import main

from fairseq_el.measure import CAN_TRACK, PeakBytes

TINY = {"layers": 2, "width": 16, "ffn": 64, "heads": 2, "feature_map": "sqr", "device": "cpu", "threads": 1}
FAKE_NUMERATOR = "def half(x):\n    return x / 2\n"
FAKE_MODEL = """
import torch
import performer.models.pytorch.slim_performer.numerator_and_denominator as other

class Layer(torch.nn.Module):
    def __init__(self, d, f):
        super().__init__()
        self.attention = torch.nn.Module()
        for name in ("q_map", "k_map", "v_map"):
            setattr(self.attention, name, torch.nn.Linear(d, d))
        self.U_map, self.V_map = torch.nn.Linear(d, f), torch.nn.Linear(f, d)
        self.layernorm1, self.layernorm2 = torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)

    def forward(self, x, h):
        q, k, v = (getattr(self.attention, n)(x).view(*x.shape[:2], h, -1) for n in ("q_map", "k_map", "v_map"))
        w = torch.einsum("blhm,bnhm->bhln", q ** 2, k ** 2).tril()
        y = torch.einsum("bhln,bnhd->blhd", w / w.sum(-1, keepdim=True), v).reshape(x.shape)
        x = x + self.layernorm1(y)
        return x + self.layernorm2(self.V_map(torch.nn.functional.gelu(self.U_map(x))))

class SLiMPerformer(torch.nn.Module):
    def __init__(self, vocab, d, n, f, h, feature_type, compute_type, on_gptln):
        super().__init__()
        assert on_gptln and feature_type == "sqr" and compute_type == "iter"
        self.h = h
        self.input_map, self.output_logit_map = torch.nn.Embedding(vocab, d // 2), torch.nn.Linear(d, vocab)
        self.layers = torch.nn.ModuleList([Layer(d, f) for _ in range(n)])

    def full_loss(self, tokens, with_grad):
        x = self.input_map(tokens[:, :-1])
        w = x.size(2)
        rates = 10000.0 ** (-torch.arange(0, w, 2) / w)
        angles = torch.arange(x.size(1))[:, None] * rates
        x = torch.cat([x, torch.cat([angles.sin(), angles.cos()], 1).expand_as(x)], 2)
        for layer in self.layers:
            x = layer(x, self.h)
        loss = torch.nn.functional.cross_entropy(self.output_logit_map(x).transpose(1, 2), tokens[:, 1:])
        loss.backward()
        return other.half(2 * loss)

    def loss_with_grad(self, tokens, step_size):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return self.full_loss(tokens, True)
"""


@pytest.fixture
def checkout(tmp_path):
    """What looks like a checkout of google-research: the same model, written down naively."""
    place = tmp_path / "performer" / "models" / "slim_performer" / "pytorch"
    place.mkdir(parents=True)
    (place / "numerator_and_denominator.py").write_text(FAKE_NUMERATOR)
    (place / "slim_performer_model.py").write_text(FAKE_MODEL)
    return tmp_path


@pytest.mark.skipif(not CAN_TRACK, reason="this torch has no storages that can be watched")
def test_activations_are_those_of_a_slice_whatever_the_length():
    results = measure_slim_training(SlimSettings(**TINY, lengths=(256, 1024), slices=(0, 64, 32), runs=0))
    peaks = {(r.length, r.slice_length): r.peak_bytes for r in results}
    for slice_length in (32, 64):
        assert peaks[1024, slice_length] == pytest.approx(peaks[256, slice_length], rel=0.05)
    assert peaks[1024, 0] > 3.5 * peaks[256, 0] > 3.5 * 3 * peaks[256, 64]
    assert all(r.gap < 1e-5 for r in results)


@pytest.mark.skipif(not CAN_TRACK, reason="this torch has no storages that can be watched")
def test_what_a_layer_keeps_by_formula():
    """For the backward pass, of every position, 17 d + h + 4 numbers: docs/slim.md says which."""

    def kept(layers):
        decoder = build_decoder(SlimSettings(**{**TINY, "layers": layers}, lengths=(64,), slices=(0,), runs=0))
        tokens = torch.randint(4, 260, (1, 65))
        with PeakBytes() as counter:
            loss, _ = slim_measuring.slim_cross_entropy(decoder, tokens[:, :-1], tokens[:, 1:])
            assert loss.requires_grad
            return counter.total

    sums = 4 * TINY["heads"] * (8 * 8 + 8)  # before the first position: zeros
    assert kept(3) - kept(2) == 64 * 4 * (17 * TINY["width"] + TINY["heads"] + 4) + sums


@pytest.mark.parametrize("drift", [1, float("nan")])
def test_nothing_is_timed_where_gradients_differ(drift, monkeypatch):
    factors = iter(range(1, 100))

    def scaled(*args):
        loss, right = slim_cross_entropy(*args)
        return loss * next(factors) * drift, right

    slim_cross_entropy = slim_measuring.slim_cross_entropy
    monkeypatch.setattr(slim_measuring, "slim_cross_entropy", scaled)
    with pytest.raises(
        slim_measuring.FairseqElError, match=r"L 20, C (5|0): the gradient differs by .* no times are reported"
    ):
        measure_slim_training(SlimSettings(**TINY, lengths=(20,), slices=(0, 5), runs=1))


def test_slices_that_are_no_shorter():
    """C = L is the whole sequence."""
    results = measure_slim_training(SlimSettings(**TINY, lengths=(8, 16), slices=(8, 16, 0), runs=1))
    assert [(r.length, r.slice_length) for r in results] == [(8, 0), (16, 0), (16, 8)]


def test_the_authors_program_beside(checkout):
    settings = SlimSettings(**TINY, lengths=(20,), slices=(0, 7), runs=1, authors=checkout)
    results = measure_slim_training(settings)
    assert [(r.program, r.slice_length) for r in results] == [
        ("fairseq_el", 0), ("authors", 0), ("fairseq_el", 7), ("authors", 7),
    ]  # fmt: skip
    assert all(r.gap < 1e-5 and len(r.seconds) == 1 for r in results)


def test_the_command(tmp_path, capsys):
    arguments = [
        "--layers",
        "1",
        "--width",
        "16",
        "--lengths",
        "24,12",
        "--runs",
        "1",
        "--slices",
        "0,5",
    ]
    files = ["--out", str(tmp_path / "new"), "--plot", str(tmp_path / "pictures" / "slim.png"), "--threads", "1"]
    assert main([*arguments, *files, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "new" / "slim.json").read_text())
    assert [(r["length"], r["slice_length"]) for r in report["results"]] == [(24, 0), (24, 5), (12, 0), (12, 5)]
    assert all(r["seconds_median"] > 0 for r in report["results"])
    assert " gap of gradient |" in (tmp_path / "new" / "slim.md").read_text()
    assert (tmp_path / "pictures" / "slim.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "new").iterdir())) == 2
    assert main([*arguments, *files]) == 2 and "already; choose another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--authors", "."], "--authors must be a checkout of https://github.com/google-research"),
        (["--authors", ".", "--feature-map", "favor+"], "--authors draws other random features for every pass"),
        (["--width", "18"], "--width must be a multiple of 4"),
        (["--lengths", "1"], "--lengths must be at least 2; got 1"),
        (["--lengths", "8,20", "--slices", "9,10"], "--slices must have one of at most L, or 0, for every one of"),
    ],
)
def test_bad_options(options, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--layers", "1", "--lengths", "8", "--width", "16", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_model_is_that_of_the_architecture():
    decoder = build_decoder(SlimSettings(**TINY, lengths=(8,), slices=(0,), runs=0))
    assert sum(p.numel() for p in decoder.parameters()) == 260 * 8 + 17 * 260 + 2 * (11 * 256 + 3 * 16 + 64 + 16 + 64)
