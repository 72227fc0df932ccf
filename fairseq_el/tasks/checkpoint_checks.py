"""Checks that a checkpoint fits the task and the data, which say what is wrong if it does not."""

from __future__ import annotations

import logging
from typing import Any, Dict, List, Sequence, Tuple

from fairseq.data import Dictionary
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY, FairseqLanguageModel, FairseqMultiModel
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.tasks.multilingual_translation import MultilingualTranslationTask
from fairseq.tasks.speech_to_text import SpeechToTextTask
from fairseq.tasks.translation import TranslationTask
from fairseq.tasks.translation_multi_simple_epoch import TranslationMultiSimpleEpochTask
from torch import nn

from fairseq_el.decoding import SPEECH_MODELS
from fairseq_el.errors import CheckpointMismatchError
from fairseq_el.tasks.option_checks import CommandLine

logger = logging.getLogger(__name__)

# By side, "encoder" or "decoder": the numbers of symbols in the checkpoint and in the data.
Sizes = Dict[str, Tuple[int, int]]

# Kinds of models: what they are, what to use, and the tasks for them.
_CONTINUES = (
    "a language model",
    "--task el_language_modeling, with data that have a dict.txt",
    (LanguageModelingTask,),
)
_LISTENS = (
    "a model of speech",
    "--task el_speech_to_text, with data that have manifests of features",
    (SpeechToTextTask,),
)
_OF_PAIRS = (
    "several models, one for each pair of languages",
    "--task el_multilingual_translation, with the --lang-pairs that they were trained with",
    (MultilingualTranslationTask,),
)
_TRANSLATES = (
    "a model with encoder and decoder",
    "--task el_translation, with data of sentence pairs",
    (TranslationTask, TranslationMultiSimpleEpochTask),
)
_KINDS: Tuple[Any, ...] = (_CONTINUES, _LISTENS, _OF_PAIRS, _TRANSLATES)


def check_kind(cfg: Any, task: Any) -> None:
    """Checks that the task is for the kind of model that a checkpoint has.

    Args:
        cfg: the checkpoint's settings of the model.

    Raises:
        CheckpointMismatchError: the task is for models of another kind.
    """
    name = getattr(cfg, "arch", None) or getattr(cfg, "_name", None)
    model = ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY.get(name)
    if model is None:
        return
    kind: Any = _TRANSLATES
    if issubclass(model, FairseqLanguageModel):
        kind = _CONTINUES
    elif issubclass(model, SPEECH_MODELS):
        kind = _LISTENS
    elif issubclass(model, FairseqMultiModel):
        kind = _OF_PAIRS
    what, use, _ = kind
    if any(isinstance(task, of_task) for other in _KINDS if other is not kind for of_task in other[2]):
        raise CheckpointMismatchError(f"The checkpoint is {what} ({name}), which this --task can't decode. Use {use}")


def check_dictionaries_on_load(model: nn.Module, task: Any, saved: CommandLine) -> None:
    """Makes loading weights for other dictionaries fail with a message about dictionaries, not about tensor sizes.

    Args:
        saved: the command line that the checkpoint was trained with.
    """

    def check(state_dict: Any, prefix: str, *unused: Any) -> None:
        sizes: Sizes = {}
        for side, dictionary in (("encoder", task.source_dictionary), ("decoder", task.target_dictionary)):
            weight = state_dict.get(f"{prefix}{side}.embed_tokens.weight")
            if weight is not None and dictionary is not None:
                sizes[side] = (weight.size(0), len(dictionary))
        problems = [
            f"  - {side}: {mine} in the checkpoint, {data} in the data"
            for side, (mine, data) in sizes.items()
            if mine != data
        ]
        if problems:
            raise CheckpointMismatchError(
                "The checkpoint and the data have dictionaries of different sizes (special symbols included):\n"
                + "\n".join(problems)
                + f"\n{task.mismatch_advice(sizes, saved)}"
            )

    model._register_load_state_dict_pre_hook(check)


def are_exchanged(sizes: Sizes) -> bool:
    """Says whether each side of the checkpoint has the size of the other side of the data."""
    if len(sizes) < 2:
        return False
    (encoder, source), (decoder, target) = sizes["encoder"], sizes["decoder"]
    return (encoder, decoder) == (target, source) != (source, target)


class Languages:
    """Symbols that multilingual tasks add to their dictionaries: one or more for each language, and others."""

    def __init__(self, option: str, given: Sequence[str], symbols: Sequence[str], others: int):
        """
        Args:
            option: the option that names the languages.
            given: the languages that it names.
            symbols: symbols of the languages, equally many for each.
            others: number of symbols that the task adds after these.
        """
        self.option, self.given, self.symbols, self.others = option, list(given), symbols, others

    def advice(self, sizes: Sizes, saved: Any, dictionary: Dictionary, dictionary_hint: str) -> str:
        """Tells a user what to do about dictionaries of other sizes than the checkpoint's.

        Args:
            saved: the languages that the checkpoint was trained with, or None where it does not say.
            dictionary: the data's, with these symbols.
            dictionary_hint: what to do if the languages are not the cause.
        """
        words = min(dictionary.index(symbol) for symbol in self.symbols)
        each = len(self.symbols) // len(self.given)
        counts = {(mine - words - self.others) / each for mine, _ in sizes.values()}
        trained = _as_list(saved)
        rule = f"{self.option} must list the languages that the model was trained with, in their order"
        if trained is not None and counts == {len(trained)}:
            return f"{rule}: {_differences(self.given, trained)}"
        if trained is not None or len(counts) > 1 or min(counts) < 1 or min(counts) != int(min(counts)):
            return dictionary_hint
        return (
            f"{rule}: {int(min(counts))} if the dictionaries are the model's own, with {words} words beside languages; "
            f"it lists {len(self.given)}. If it lists them all, the dictionaries are wrong: {dictionary_hint}"
        )

    def warn_of_another_order(self, saved: Any) -> None:
        """Warns where the order of the languages differs: a language's number is its place in the list."""
        trained = _as_list(saved)
        if trained is not None and trained != self.given and sorted(trained) == sorted(self.given):
            said = "%s lists the languages in another order than the model was trained with: %s"
            logger.warning(said, self.option, ",".join(trained))


def _as_list(languages: Any) -> Any:
    if languages is None:
        return None
    return languages.split(",") if isinstance(languages, str) else list(languages)


def _differences(given: List[str], trained: List[str]) -> str:
    missing = [language for language in trained if language not in given]
    unknown = [language for language in given if language not in trained]
    said = [f"it lacks {', '.join(missing)}"] if missing else []
    said += [f"the model does not have {', '.join(unknown)}"] if unknown else []
    return f"{' and '.join(said) or 'the order is another'}. Give {','.join(trained)}"
