"""Builds fairseq's models from settings alone: without their task, and without memory where only shapes matter."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any, Dict, List, Optional

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    ARCH_MODEL_REGISTRY,
    MODEL_DATACLASS_REGISTRY,
    FairseqMultiModel,
)
from omegaconf import DictConfig, OmegaConf

from fairseq_el.conversion.checkpoint import Checkpoint
from fairseq_el.conversion.limits import WORDS, differences_from_weights, setting_problems
from fairseq_el.errors import FairseqElError, summary_of

_BUILT = (  # modules of models that run no setting as code, except with character embeddings
    *("fairseq_el.", "fairseq.models.transformer.", "fairseq.models.bart.", "fairseq.models.transformer_lm"),
    *("fairseq.models.transformer_align", "fairseq.models.multilingual_transformer", "fairseq.models.lightconv"),
)


class StandInTask:
    """Stands in for a task: it has the dictionaries with which fairseq's models are built."""

    def __init__(self, words: Dictionary, source_words: Optional[Dictionary] = None):
        self.target_dictionary = self.output_dictionary = self.dictionary = words
        self.source_dictionary = source_words or words


class _CountedWords(Dictionary):
    def __init__(self, count: int):
        super().__init__()
        self._count = max(count, self.nspecial)

    def __len__(self) -> int:
        return self._count


def numbered_words(count: int) -> Dictionary:
    """Makes a dictionary that has a size and no symbols, for a model whose words do not matter."""
    return _CountedWords(count)


def most_words() -> int:
    """Returns the largest vocabulary with which a model is built for its shape.

    It is smaller before torch 2, where the tensors of such a model take memory.
    """
    return WORDS if hasattr(torch, "_subclasses") else WORDS // 20


def without_storage() -> Any:
    """Returns a context in which tensors have shapes and no bytes; before torch 2 they have both."""
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode

        return FakeTensorMode()
    except ImportError:
        return contextlib.nullcontext()


def with_defaults(given: Dict[str, Any]) -> argparse.Namespace:
    """Completes the settings of a model with the defaults of fairseq's command line.

    Args:
        given: has ``arch``, a registered architecture.
    """
    arch = given["arch"]
    settings = argparse.Namespace(**given)
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    ARCH_MODEL_REGISTRY[arch].add_args(parser)
    parser.parse_args([], settings)
    ARCH_CONFIG_REGISTRY[arch](settings)
    configuration = MODEL_DATACLASS_REGISTRY.get(ARCH_MODEL_NAME_REGISTRY[arch])
    if configuration is None:
        return settings
    defaults = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    gen_parser_from_dataclass(defaults, configuration())  # architectures of language models leave these out
    return argparse.Namespace(**{**vars(defaults.parse_args([])), **vars(settings)})


def settings_of(checkpoint: Checkpoint) -> argparse.Namespace:
    """Returns all settings of a checkpoint's model, flat, with the defaults of its architecture.

    Raises:
        FairseqElError: the architecture does not exist, or no model can have the settings; all of them are named.
    """
    arch = checkpoint.arch
    if arch not in ARCH_CONFIG_REGISTRY:
        raise FairseqElError(
            f"the architecture must be one of fairseq's; {checkpoint.path} has {arch}. Its model's own code is needed "
            "to build it, and it is not loaded here"
        )
    given = flat_settings(checkpoint)
    try:
        complete = with_defaults({**given, "arch": arch, "task": checkpoint.task})
    except Exception as error:  # fairseq's architectures fail in many ways on types they do not expect
        raise FairseqElError(
            f"fairseq does not understand the settings of {checkpoint.path}: {summary_of(error)}"
        ) from error
    complete.encoder_embed_path = complete.decoder_embed_path = None  # embeddings are in the checkpoint
    return complete


def flat_settings(checkpoint: Checkpoint) -> Dict[str, Any]:
    """Returns a checkpoint's settings of its model, by name; those of ``encoder`` as ``encoder_...``, and so on.

    Raises:
        FairseqElError: the checkpoint has no settings, or some that no model can have; all of them are named.
    """
    all_settings = checkpoint.model_settings()
    if not all_settings:
        raise FairseqElError(f'{checkpoint.path} must have settings of its model in "cfg.model" or "args"; it has none')
    raw: Any = all_settings[-1]
    if isinstance(raw, DictConfig):
        raw = OmegaConf.to_container(raw, resolve=False)
    given = dict(vars(raw) if isinstance(raw, argparse.Namespace) else raw)
    for side in ("encoder", "decoder"):
        nested = given.pop(side, None)
        for name, value in nested.items() if isinstance(nested, dict) else ():
            given.setdefault(f"{side}_{name}", value)
    try:
        known = _is_built(checkpoint.arch)
    except FairseqElError:  # it has none
        known = False
    problems = setting_problems(given) if known else []
    if problems:
        raise FairseqElError(f"the settings of {checkpoint.path} must be those of a model: {'; '.join(problems)}")
    return given


def language_pairs(checkpoint: Checkpoint) -> List[str]:
    """Lists the pairs of languages that each have a model in a checkpoint of fairseq's ``multilingual_translation``."""
    if not all(name.startswith("models.") for name in checkpoint.weights):
        return []
    return list(dict.fromkeys(name.split(".")[1] for name in checkpoint.weights))


def of_one_pair(checkpoint: Checkpoint) -> Checkpoint:
    """Returns the model of the first pair of languages as a Transformer's checkpoint; others as they are.

    All pairs have the same layers, and one of them is loaded to decode.

    Raises:
        FairseqElError: fairseq does not know the architecture, or the settings are not a model's.
    """
    pairs = language_pairs(checkpoint)
    if not pairs or not issubclass(ARCH_MODEL_REGISTRY.get(checkpoint.arch, object), FairseqMultiModel):
        return checkpoint
    settings = settings_of(checkpoint)
    settings.arch = "transformer"
    prefix = f"models.{pairs[0]}."
    weights = {name[len(prefix) :]: value for name, value in checkpoint.weights.items() if name.startswith(prefix)}
    return Checkpoint({"args": settings, "model": weights}, checkpoint.path)


def _is_built(arch: str) -> bool:
    """Returns whether models of an architecture may be built from a file: some of fairseq's run settings as code."""
    model = ARCH_MODEL_REGISTRY.get(arch)
    return model is not None and model.__module__.startswith(_BUILT)


def checked_settings(checkpoint: Checkpoint) -> argparse.Namespace:
    """Returns the settings of a model as :func:`settings_of` does, if building it from them is safe.

    Raises:
        FairseqElError: fairseq would run a setting as code, or settings and weights are of models of different sizes.
    """
    settings = settings_of(checkpoint)
    if not _is_built(settings.arch) or getattr(settings, "character_embeddings", False):
        what = "character embeddings" if _is_built(settings.arch) else f"the architecture {settings.arch}"
        raise FairseqElError(
            f"no model is built if fairseq may run its settings as code; {checkpoint.path} has {what}, for which it "
            "may. Give a checkpoint of fairseq's Transformer or BART models"
        )
    differences = differences_from_weights(settings, checkpoint.weights)
    if differences:
        raise FairseqElError(f"settings and weights of {checkpoint.path} must agree: {'; '.join(differences)}")
    return settings


def build(checkpoint: Checkpoint, words: Dictionary) -> Any:
    """Builds fairseq's model of a checkpoint, with exactly its weights, in evaluation mode.

    Raises:
        FairseqElError: the settings do not make a model, or the weights are not that model's.
    """
    settings = checked_settings(checkpoint)
    try:
        model = ARCH_MODEL_REGISTRY[settings.arch].build_model(settings, StandInTask(words))
        model.load_state_dict(checkpoint.weights, strict=True)
    except Exception as error:  # any model of fairseq may be in a checkpoint, and fail in its own way
        said = summary_of(error)
        raise FairseqElError(f"fairseq could not build {settings.arch} of {checkpoint.path}: {said}") from error
    return model.eval()
