"""One message where torch has no kernels for a card; one warning where it sees none that nvidia-smi shows."""

from __future__ import annotations

import argparse
import logging
import types

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from tiny import TinyELTask, batch, build_language_model, build_model, dictionary

from fairseq_el import NoKernelsError, enable_el_attention
from fairseq_el.cards import check
from fairseq_el.failure_report import explain
from fairseq_el.generation import ELSequenceGenerator

CARD = torch.device("cuda")
CPU = torch.device("cpu")
NEWEST = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
WORDS = dictionary()


@pytest.fixture
def warnings_of(caplog):
    """What was logged as a warning so far."""
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_card_that_torch_has_kernels_for(fake_torch, warnings_of):
    fake_torch((8, 0), NEWEST)
    check.check_device(CARD)
    check.check_device(torch.device("cuda", 1))
    assert warnings_of() == []


def test_one_message_about_a_card_without_kernels(fake_torch, nvidia_smi):
    fake_torch((7, 0), NEWEST)
    nvidia_smi(("7.0", "580.65.06"))
    for _ in range(2):  # every time: a user may catch it
        with pytest.raises(NoKernelsError) as caught:
            check.check_device(CARD)
        assert str(caught.value) == (
            "torch 2.13.0+cu130 has no kernels for this card, Tesla V100-SXM2-16GB of compute capability 7.0: it was "
            "built for sm_75, sm_80, sm_86, sm_90, sm_100, sm_120. With --cpu it is not used. Install a torch that "
            "serves the card: pip install torch==2.10.0"
        )


@pytest.mark.parametrize(
    ("capability", "kernels", "python", "version", "cuda", "what"),
    [
        ((8, 0), ["sm_70"], (3, 10), "1.12.1+cu102", "10.2", "pip install torch==1.13.1"),
        ((9, 0), ["sm_70"], (3, 10), "1.12.1+cu102", "10.2", "take Python 3.11 to 3.13, where torch==2.13.0 serves it"),
        ((6, 0), NEWEST, (3, 12), "2.13.0+cu130", "13.0", "pip install torch==2.7.1"),
        # PyTorch's own index has builds of the same version for fewer cards: pip would call it installed.
        ((7, 0), NEWEST, (3, 12), "2.10.0+cu130", "13.0", "pip install --force-reinstall torch==2.10.0"),
        ((3, 5), NEWEST, (3, 12), "2.13.0+cu130", "13.0", "compute capability 3.5: take another torch that has some"),
    ],
)
def test_the_command_is_for_this_python(capability, kernels, python, version, cuda, what, fake_torch, monkeypatch):
    monkeypatch.setattr(check, "has_nvidia_smi", lambda: False)
    monkeypatch.setattr(check, "shown_cards", lambda: types.SimpleNamespace(cards=[]))
    fake_torch(capability, kernels, version, cuda)
    monkeypatch.setattr(check.sys, "version_info", python)
    with pytest.raises(NoKernelsError) as caught:
        check.check_device(CARD)
    assert what in str(caught.value) and "\n" not in str(caught.value)


def test_the_driver_counts_too(fake_torch, nvidia_smi):
    """A V100 under torch for CUDA 11 built without its kernels: newer ones need a newer driver."""
    fake_torch((7, 0), ["sm_80"], "2.0.1+cu117", "11.7")
    nvidia_smi(("7.0", "470.82.01"))
    with pytest.raises(NoKernelsError, match="install driver 525 or newer, or take Python 3"):
        check.check_device(CARD)


def test_other_machines_than_those_of_the_wheels(fake_torch, monkeypatch):
    fake_torch((7, 0), NEWEST)
    monkeypatch.setattr(check.platform, "machine", lambda: "aarch64")
    with pytest.raises(
        NoKernelsError, match=r"Install a torch for it from https://pytorch.org \(this machine is aarch"
    ):
        check.check_device(CARD)


@pytest.mark.parametrize(("cuda", "kernels"), [(None, NEWEST), ("13.0", [])], ids=["an AMD card", "it does not say"])
def test_nothing_is_said_where_nothing_is_known(cuda, kernels, fake_torch):
    fake_torch((7, 0), kernels, cuda=cuda)
    check.check_device(CARD)


def on_card(model, monkeypatch):
    """The model says that its parameters are on a card."""
    monkeypatch.setattr(model, "parameters", lambda: iter([types.SimpleNamespace(device=CARD)]))
    return model


def test_enabling_on_a_card_without_kernels(fake_torch, monkeypatch):
    fake_torch((7, 0), NEWEST)
    model = on_card(build_model("transformer", WORDS, seed=1), monkeypatch)
    hub = types.SimpleNamespace(models=torch.nn.ModuleList([model]))
    for models in (model, [model], hub):
        with pytest.raises(NoKernelsError, match="no kernels for this card"):
            enable_el_attention(models)
    monkeypatch.setattr(model, "to", lambda dtype: pytest.fail("converted without kernels"))
    with pytest.raises(NoKernelsError, match="no kernels for this card"):
        TinyELTask(WORDS, argparse.Namespace(el_dtype="fp16")).build_generator([model], argparse.Namespace(beam=2))


@pytest.mark.parametrize("generator", [SequenceGenerator, ELSequenceGenerator])
def test_a_model_that_was_moved_after_it_was_enabled(generator, fake_torch, monkeypatch):
    """Before the encoder reads anything; stock's generator is that of hub interfaces."""
    model = enable_el_attention(build_model("transformer", WORDS, seed=1))
    generate = generator([model], WORDS, beam_size=2).generate
    sample = batch(WORDS, [5, 3], seed=1)
    fake_torch((7, 0), NEWEST)
    monkeypatch.setattr(type(sample["net_input"]["src_tokens"]), "device", CARD)
    monkeypatch.setattr(model.encoder, "forward_embedding", None)
    with pytest.raises(NoKernelsError, match="no kernels for this card"):
        check.check_input(sample["net_input"])
    with pytest.raises(NoKernelsError, match="no kernels for this card"):
        generate([model], sample)


def test_an_error_of_torch_about_missing_kernels(fake_torch):
    error = RuntimeError("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors ...")
    fake_torch((7, 0), NEWEST)
    assert "torch 2.13.0+cu130 has no kernels for this card" in explain(error)
    fake_torch((8, 0), NEWEST)
    assert "this one belongs to an extension: fairseq's own, apex or xformers" in explain(error)
    fake_torch()
    assert explain(error) is None and explain(RuntimeError("CUDA error: unspecified launch failure")) is None


@pytest.mark.parametrize(
    ("version", "cuda", "card", "why"),
    [
        (
            "2.13.0+cu130",
            "13.0",
            ("8.0", "535.104.05"),
            "torch 2.13.0+cu130 was built for CUDA 13.0, for which the driver is too old. Install driver 580 or newer, "
            "or a torch that serves the card: pip install torch==2.10.0",
        ),
        (
            "2.13.0+cu130",
            "13.0",
            ("8.0", "470.82.01"),
            "for which the driver is too old. torch==2.10.0 needs driver 525 or newer (CUDA 12.8), and this is "
            "470.82.01: install driver 525 or newer, or take Python 3.8 to 3.10, where torch==1.13.1 serves it.",
        ),
        (
            "2.13.0+cpu",
            None,
            ("7.5", "580.65.06"),
            "torch 2.13.0+cpu is a build without CUDA. Install a torch that serves the card: pip install "
            "--force-reinstall torch==2.13.0",
        ),
    ],
)
def test_one_warning_about_a_card_that_torch_does_not_see(
    version, cuda, card, why, fake_torch, nvidia_smi, warnings_of
):
    fake_torch(version=version, cuda=cuda)
    nvidia_smi(card)
    for _ in range(3):
        check.check_device(CPU)
    assert check.usable_device() == "cpu"
    (said,) = warnings_of()
    assert said.startswith("Decoding goes on on the CPU, although nvidia-smi shows a card (compute capability ")
    assert said.endswith(why)


def test_other_reasons_are_torchs_own(fake_torch, nvidia_smi, monkeypatch):
    fake_torch(version="2.10.0+cu128", cuda="12.8")
    nvidia_smi(("8.0", "580.65.06"))

    def fail():
        raise RuntimeError("CUDA unknown error - this may be due to something\nmore")

    monkeypatch.setattr(torch.cuda, "init", fail)
    assert check.why_no_card().endswith("can't use it: CUDA unknown error - this may be due to something")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert "CUDA_VISIBLE_DEVICES is '7', which names no card that torch 2.10.0+cu128 can use" in check.why_no_card()


@pytest.mark.parametrize("hidden", ["", " ", "-1", "NoDevFiles"])
def test_cards_that_are_hidden(hidden, fake_torch, nvidia_smi, warnings_of, monkeypatch):
    fake_torch()
    nvidia_smi(("8.0", "535.104.05"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    check.check_device(CPU)
    assert warnings_of() == []


@pytest.mark.parametrize("argument", ["--cpu", "common.cpu=True"])
def test_the_cpu_was_asked_for(argument, fake_torch, nvidia_smi, warnings_of, monkeypatch):
    fake_torch()
    nvidia_smi(("8.0", "535.104.05"))
    monkeypatch.setattr(check.sys, "argv", ["fairseq-generate", "data", argument])
    check.check_device(CPU)
    assert warnings_of() == []


@pytest.mark.parametrize("answer", ["exit 9", "echo 'No devices were found'; exit 6"])
def test_a_driver_without_a_card(answer, fake_torch, nvidia_smi, warnings_of):
    fake_torch()
    nvidia_smi(first=answer, second=answer)
    check.check_device(CPU)
    assert warnings_of() == []


def test_machines_without_nvidia_smi_are_asked_nothing(fake_torch, monkeypatch, tmp_path):
    fake_torch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("torch was asked"))
    monkeypatch.setattr(check, "shown_cards", lambda: pytest.fail("nvidia-smi was asked"))
    check.check_device(CPU)


@pytest.mark.parametrize("kind", ["el task", "hub", "language model"])
def test_decoding_warns_once_and_goes_on(kind, fake_torch, nvidia_smi, warnings_of):
    build = (
        build_language_model
        if kind == "language model"
        else lambda words, seed: build_model("transformer", words, seed)
    )
    model = build(WORDS, 1)
    enable_el_attention(model)
    options = {"beam_size": 2, "max_len_b": 5}
    if kind == "el task":
        generator = TinyELTask(WORDS).build_generator([model], argparse.Namespace(beam=2, max_len_b=5))
    else:
        generator = (ELSequenceGenerator if kind == "language model" else SequenceGenerator)([model], WORDS, **options)
    fake_torch()
    nvidia_smi(("8.0", "535.104.05"))
    assert warnings_of() == []  # not before anything is decoded: training says nothing
    sample = batch(WORDS, [5, 3], seed=1)
    first = generator.generate([model], sample)
    assert [len(found) for found in first] == [2, 2]
    generator.generate([model], sample)
    (said,) = warnings_of()
    assert "Decoding goes on on the CPU" in said
