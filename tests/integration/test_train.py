"""``fairseq-train`` with EL architectures; its checkpoints in fairseq-generate and in the hub interface."""

from __future__ import annotations

import re

import pytest
import torch
from commands import EXAMPLE, LOSE_NO_SENTENCE, USER_DIR, assert_same_hypotheses, documented_python, run, texts
from fairseq.models.bart import BARTModel

import fairseq_el

TINY = [
    "--encoder-layers", "1", "--decoder-layers", "2", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16",
    "--encoder-ffn-embed-dim", "32", "--decoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2",
    "--decoder-attention-heads", "2", "--share-all-embeddings",
]  # fmt: skip
TRAINING = [
    "--optimizer", "adam", "--lr", "0.01", "--max-tokens", "1000", "--max-update", "3", "--max-epoch", "1",
    "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--seed", "1", "--num-workers", "0",
    "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "1",
]  # fmt: skip

DECODING = ["--beam", "3", "--max-len-b", "9", "--user-dir", USER_DIR, *LOSE_NO_SENTENCE]


def train(data, save_dir, arch, task="translation", *options):
    user_dir = ["--user-dir", USER_DIR, "--task", task, "--save-dir", save_dir]
    return run("train", data, "--arch", arch, *user_dir, *TINY, *TRAINING, *options)


@pytest.fixture(scope="module", params=["transformer", "bart_base"])
def trained(request, data, tmp_path_factory):
    """A stock and an EL model of one architecture, trained alike."""
    work = tmp_path_factory.mktemp(request.param)
    logs = {arch: train(data, work / arch, arch) for arch in (request.param, f"el_{request.param}")}
    return work, request.param, logs


def weights(path):
    """Without a dummy that fairseq 0.12.2 leaves uninitialised."""
    state = torch.load(path, map_location="cpu")["model"]
    return {key: value for key, value in state.items() if not key.endswith("embed_positions._float_tensor")}


def test_training_gives_the_stock_weights_and_losses(trained):
    work, arch, logs = trained
    losses = [re.findall(r'"loss": "([\d.]+)"', log.stderr + log.stdout) for log in logs.values()]
    assert losses[0] == losses[1] != []
    stock, el = (weights(work / name / "checkpoint_last.pt") for name in (arch, f"el_{arch}"))
    assert list(stock) == list(el)
    assert all(torch.equal(stock[key], el[key]) for key in stock)


def test_el_checkpoints_decode_with_el_attention_under_the_stock_task(trained, data):
    work, arch, _ = trained
    options = [data, *DECODING, "--task", "translation"]
    stock, el = (
        run("generate", *options, "--path", work / name / "checkpoint_last.pt") for name in (arch, f"el_{arch}")
    )
    assert "EL-attention enabled in 2 cross-attention modules (el) and 2 self-attention modules (kv)" in el.stderr
    assert "EL-attention" not in stock.stderr
    assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=40)


def test_training_with_the_el_task_validates_with_el_attention(data, tmp_path):
    """``--eval-bleu`` builds a generator around a model that is being trained: same BLEU, same weights as stock."""
    bleu = ["--eval-bleu", "--eval-bleu-args", '{"beam": 2, "max_len_b": 9}', "--eval-bleu-remove-bpe", "sentencepiece"]
    logs = [train(data, tmp_path / task, "transformer", task, *bleu) for task in ("translation", "el_translation")]
    found = [re.findall(r'"valid_bleu": "([\d.]+)"', log.stderr + log.stdout) for log in logs]
    assert found[0] == found[1] != []
    assert "EL-attention enabled" in logs[1].stderr + logs[1].stdout
    stock, el = (weights(tmp_path / task / "checkpoint_last.pt") for task in ("translation", "el_translation"))
    assert all(torch.equal(stock[key], el[key]) for key in stock)


def test_the_hub_interface_of_bart(data, tmp_path, monkeypatch):
    """``BARTModel.from_pretrained(...).sample(...)``, which decodes in its own way, with stock and EL attention."""
    train(data, tmp_path, "bart_base")
    bart = BARTModel.from_pretrained(
        str(tmp_path),
        "checkpoint_last.pt",
        str(data),
        bpe="sentencepiece",
        sentencepiece_model=str(EXAMPLE / "spm.model"),
    ).eval()
    texts_in = ["Ein Hund schläft.", "Zwei Kinder spielen im Park mit einem roten Ball.", "Hallo"]
    options = {"max_len_b": 12, "min_len": 3}
    expected = {beam: bart.sample(texts_in, beam=beam, **options) for beam in (4, 5)}
    fairseq_el.enable_el_attention(bart)
    assert fairseq_el.el_attention_enabled(bart.model)
    for beam in (4, 1, 5, 4):
        sampled = bart.sample(texts_in, beam=beam, **options)
        assert sampled == expected.get(beam, sampled)
    fairseq_el.disable_el_attention(bart)
    assert bart.sample(texts_in, beam=4, **options) == expected[4]
    # the README's lines, with this model in the place of the one they download
    monkeypatch.setattr(BARTModel, "from_pretrained", lambda *args, **kwargs: bart)
    names = {}
    exec(documented_python("bart.sample"), names)
    assert names["bart"] is bart and not fairseq_el.el_attention_enabled(bart)


OTHER_TASKS = {
    "translation_from_pretrained_bart": ["--langs", "de,en"],
    "translation_multi_simple_epoch": [
        "--langs", "de,en", "--lang-pairs", "de-en", "--encoder-langtok", "src", "--decoder-langtok",
    ],
}  # fmt: skip


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_other_tasks(task, data, tmp_path):
    """Trained with the EL task; decoded with it and, where stock still works, with the stock task."""
    languages = ["--source-lang", "de", "--target-lang", "en"]
    options = OTHER_TASKS[task] + (languages if "bart" in task else [])
    train(data, tmp_path, "transformer", f"el_{task}", *options)
    options = [data, *DECODING, "--path", tmp_path / "checkpoint_last.pt", *languages, *OTHER_TASKS[task]]
    el = run("generate", *options, "--task", f"el_{task}")
    assert "EL-attention enabled in 2 cross-attention modules (el) and 2 self-attention modules (kv)" in el.stderr
    assert len(texts(el.stdout, "H")) == 40
    if "bart" in task:  # the stock task of fairseq 0.12 reads self.args, which it no longer sets
        stock = run("generate", *options, "--task", task, fails=True)
        assert "has no attribute 'args'" in stock.stderr
    else:
        stock = run("generate", *options, "--task", task)
        assert_same_hypotheses(el.stdout, stock.stdout, num_sentences=40)
