"""Bad input to ``fairseq-generate --task el_translation``: one clear message, no traceback, nothing half-written."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from commands import EXAMPLE, USER_DIR, run
from damage import Hostile

from fairseq_el._compat import torch_version

MODEL = EXAMPLE / "model.pt"


def generate(data, tmp_path, model, *options, task="el_translation"):
    """Runs in an empty directory and returns what was said; nothing may have been written there."""
    work = tmp_path / "work"
    work.mkdir()
    process = run(
        "generate", data, "--path", model, "--user-dir", USER_DIR, "--task", task, *options, cwd=work, fails=True
    )
    assert list(work.iterdir()) == []
    assert "H-" not in process.stdout
    return process.stderr


def last_message(stderr):
    assert "Traceback" not in stderr
    return stderr[stderr.index("fairseq_el: error: ") :]


def load_example():
    import fairseq_el  # noqa: F401  (makes the checkpoint loadable)

    return torch.load(MODEL, map_location="cpu")


needs_safe_load = pytest.mark.skipif(
    torch_version() < (2, 6),
    reason="before torch 2.6 fairseq's own torch.load unpickles freely; the plugin can't change that",
)


@needs_safe_load
def test_a_hostile_checkpoint_is_refused_by_class_name(data, tmp_path):
    state = load_example()
    state["extra_state"] = {"surprise": Hostile()}
    torch.save(state, tmp_path / "hostile.pt")
    message = last_message(generate(data, tmp_path, tmp_path / "hostile.pt"))
    assert f"The checkpoint {tmp_path / 'hostile.pt'} was not loaded" in message
    assert f"{os.system.__module__}.system" in message


def test_weights_in_8_bits_with_another_dtype(data, tmp_path):
    message = last_message(generate(data, tmp_path, MODEL, "--el-weights", "int8", "--el-dtype", "bf16"))
    assert message.startswith("fairseq_el: error: --el-weights int8 needs --el-dtype fp32 or as-loaded; it is bf16.")


def test_a_truncated_checkpoint(data, tmp_path):
    (tmp_path / "half.pt").write_bytes(MODEL.read_bytes()[:5_000_000])
    message = last_message(generate(data, tmp_path, tmp_path / "half.pt"))
    assert f"The checkpoint {tmp_path / 'half.pt'} could not be read" in message and "incomplete" in message


def test_a_file_that_is_no_checkpoint(data, tmp_path):
    (tmp_path / "text.pt").write_text("not a checkpoint\n" * 100)
    assert "could not be read" in last_message(generate(data, tmp_path, tmp_path / "text.pt"))


def test_a_missing_checkpoint_is_fairseqs_own_clear_error(data, tmp_path):
    assert f"Model file not found: {tmp_path / 'missing.pt'}" in generate(data, tmp_path, tmp_path / "missing.pt")


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (["de", "en"], ["encoder: 6000 in the checkpoint, 5998 in the data", "decoder: 6000 in", "--srcdict"]),
        (["en"], ["6000 and 5998 words", "--share-all-embeddings requires a joined dictionary", "--srcdict"]),
    ],
)
def test_a_dictionary_of_another_size(data, tmp_path, languages, expected):
    other = tmp_path / "data-bin"
    shutil.copytree(data, other)
    for language in languages:
        path = other / f"dict.{language}.txt"
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-2]), encoding="utf-8")
    message = last_message(generate(other, tmp_path, MODEL))
    assert all(part in message for part in expected)


def test_a_model_that_can_not_be_decoded_exactly_lists_every_reason(data, tmp_path):
    state = load_example()
    settings = state["cfg"]["model"]
    settings.cross_self_attention = settings.no_cross_attention = True
    state["model"] = {key: value for key, value in state["model"].items() if "encoder_attn" not in key}
    torch.save(state, tmp_path / "odd.pt")
    message = last_message(generate(data, tmp_path, tmp_path / "odd.pt"))
    assert "--cross-self-attention" in message and "--no-cross-attention" in message
    assert "--task translation" in message


def test_an_unknown_task_is_fairseqs_own_clear_error(data, tmp_path):
    assert "invalid choice: 'el_nonsense'" in generate(data, tmp_path, MODEL, task="el_nonsense")


def test_a_source_that_is_too_long_is_fairseqs_own_clear_error(data, tmp_path):
    stderr = generate(data, tmp_path, MODEL, "--max-source-positions", "10")
    assert "is invalid" in stderr and "max_positions=(10, 1024)" in stderr


def test_unknown_options_of_generators_fail_as_in_stock(data, tmp_path):
    stderr = generate(data, tmp_path, MODEL, "--diverse-beam-groups", "2", "--diversity-rate", "0.5")
    assert "Search parameters are mutually exclusive" in stderr


def test_weights_that_are_not_numbers(data, tmp_path):
    state = load_example()
    state["model"]["decoder.layers.1.fc1.weight"][7, 3] = float("nan")
    torch.save(state, tmp_path / "damaged.pt")
    message = last_message(generate(data, tmp_path, tmp_path / "damaged.pt", "--max-len-b", "5", "--beam", "2"))
    assert message.startswith("fairseq_el: error: Sentences ") and "the scores of word 1 are not numbers" in message
    assert "decoder.layers.1.fc1.weight holds NaN or infinity (1 of " in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-len", "30", "--max-len-b", "20"], "--min-len must be at most --max-len-b, which is 20; it is 30"),
        (
            ["--min-len", "130", "--max-len-a", "0.1", "--max-len-b", "20"],  # known when a batch is there
            "--min-len must not be larger than the longest output; it is 130, and the longest output has 2",
        ),
    ],
)
def test_limits_of_length_that_leave_no_room(options, message, data, tmp_path):
    assert message in last_message(generate(data, tmp_path, MODEL, *options))
