"""Tiny random fairseq models, tasks and batches. Random weights: for algebra only."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    ARCH_MODEL_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
)
from fairseq.tasks.fairseq_task import FairseqTask
from torch import nn

from fairseq_el.tasks import ELTask


def dictionary(num_words: int = 16) -> Dictionary:
    result = Dictionary()
    for i in range(num_words):
        result.add_symbol(f"w{i}")
    return result


class TinyTask(FairseqTask):
    """As much of a translation task as generators need."""

    def __init__(self, words: Dictionary, args: argparse.Namespace | None = None):
        super().__init__(args or argparse.Namespace())
        self.args = args
        self.words = words

    @property
    def source_dictionary(self) -> Dictionary:
        return self.words

    @property
    def target_dictionary(self) -> Dictionary:
        return self.words


class TinyELTask(ELTask, TinyTask):
    pass


TINY: dict[str, Any] = {
    "encoder_embed_dim": 16,
    "decoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "decoder_ffn_embed_dim": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_source_positions": 64,
    "max_target_positions": 64,
}


def build_model(
    arch: str, words: Dictionary, seed: int, dtype: torch.dtype = torch.float64, **options: Any
) -> nn.Module:
    """A random model of a registered architecture, in evaluation mode.

    The spread of the weights was chosen so that attention is sharp, hypotheses vary in words and length, and the words
    before and the source both matter (at fairseq's initialisation, or wider, models repeat one word for ever).
    """
    torch.manual_seed(seed)
    model = ARCH_MODEL_REGISTRY[arch].build_model(settings(arch, **options), TinyTask(words))
    draw_weights(model)
    return model.to(dtype).eval()


def draw_weights(model: nn.Module) -> None:
    """Draws all parameters anew, with the spread that :func:`build_model` says."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif parameter.dim() > 1:
                gain = 3.0 if "q_proj" in name or "k_proj" in name else 2.0 if "embed" in name else 0.7
                parameter.normal_(std=gain * parameter.size(1) ** -0.5)


def settings(arch: str, **options: Any) -> argparse.Namespace:
    """All settings of a tiny model, as a checkpoint has them."""
    args = _defaults(arch)
    vars(args).update(TINY, **options)
    ARCH_CONFIG_REGISTRY[arch](args)
    return args


def _defaults(arch: str) -> argparse.Namespace:
    """What fairseq's command line would give the model, before the architecture fills in the rest."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    name = ARCH_MODEL_NAME_REGISTRY[arch]
    if name in MODEL_DATACLASS_REGISTRY:
        gen_parser_from_dataclass(parser, MODEL_DATACLASS_REGISTRY[name](), delete_default=False)
    else:
        ARCH_MODEL_REGISTRY[arch].add_args(parser)
    args = parser.parse_args([])
    args.arch, args.task = arch, "tiny"
    return args


def build_language_model(words: Dictionary, seed: int, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    """A random decoder-only model."""
    defaults = {
        "tokens_per_sample": 64,
        "decoder_input_dim": 16,
        "decoder_output_dim": 16,
        "share_decoder_input_output_embed": True,
    }
    return build_model("transformer_lm", words, seed, dtype, **{**defaults, **options})


def build_slim_performer(words: Dictionary, seed: int, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    """A random SLiM Performer."""
    defaults = {"tokens_per_sample": 64, "decoder_ffn_embed_dim": 24, "decoder_attention_heads": 4}
    return build_model("slim_performer_lm", words, seed, dtype, **{**defaults, **options})


def batch(words: Dictionary, lengths: list[int], seed: int, left_pad_source: bool = True) -> dict[str, Any]:
    """A ragged batch of random sentences of these lengths, each with ``</s>`` at its end."""
    generator = torch.Generator().manual_seed(seed)
    sources = [
        torch.cat(
            [torch.randint(words.nspecial, len(words), (length - 1,), generator=generator), torch.tensor([words.eos()])]
        )
        for length in lengths
    ]
    dataset = LanguagePairDataset(
        sources, [len(s) for s in sources], words, tgt_dict=words, left_pad_source=left_pad_source, shuffle=False
    )
    return dataset.collater([dataset[i] for i in range(len(lengths))])


def hypotheses(generator: Any, models: list[nn.Module], sample: dict[str, Any], **options: Any) -> list[Any]:
    """Tokens and score of each hypothesis of each sentence."""
    found = generator.generate(models, sample, **options)
    return [[(h["tokens"].tolist(), float(h["score"])) for h in sentence] for sentence in found]


def assert_same_hypotheses(mine: list[Any], theirs: list[Any], **tolerance: float) -> None:
    """The same tokens, and scores within a tolerance of ``pytest.approx``: hypotheses as above."""
    assert [[tokens for tokens, _ in each] for each in mine] == [[tokens for tokens, _ in each] for each in theirs]
    for each, expected in zip(mine, theirs):
        assert [score for _, score in each] == pytest.approx([score for _, score in expected], **tolerance)


def assert_same_logits(model: nn.Module, hf_model: nn.Module, words: Dictionary) -> None:
    """A BART of fairseq and one of Hugging Face give the same logits for a padded batch."""
    source = batch(words, [9, 4, 6], seed=1, left_pad_source=False)["net_input"]
    previous = torch.randint(4, len(words), (3, 7), generator=torch.Generator().manual_seed(2))
    previous[:, 0] = words.eos()
    mask = source["src_tokens"].ne(words.pad()).long()
    with torch.no_grad():
        expected = model(source["src_tokens"], source["src_lengths"], previous)[0]
        found = hf_model(input_ids=source["src_tokens"], attention_mask=mask, decoder_input_ids=previous).logits
    assert (found - expected).abs().max() <= 1e-5


def save_with_cfg(path: Path, model: nn.Module, settings: Any) -> None:
    """A checkpoint as fairseq 0.12 writes it: the model's settings under ``cfg``, nothing under ``args``."""
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    state = {"args": None, "cfg": {"model": settings}, "model": model.state_dict(), "optimizer_history": [history]}
    torch.save({**state, "extra_state": {"train_iterator": None}, "task_state": {}}, path)


def snapshot(model: nn.Module) -> list[Any]:
    """Everything that enabling may not leave behind: classes and instance attributes of all modules."""

    def comparable(value: Any) -> Any:
        return id(value) if isinstance(value, torch.Tensor) else value

    changes_by_itself = ("_future_mask", "weights")  # buffers of decoders and sinusoidal positions
    return [
        (type(module), {key: comparable(v) for key, v in module.__dict__.items() if key not in changes_by_itself})
        for module in model.modules()
    ]
