"""The interface of a program, and what programs share: configuration, sources and prompts, scores of written words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Callable, List, Sequence

import torch
from fairseq import options, tasks, utils
from fairseq.data import data_utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from torch import Tensor

from fairseq_el.bench.settings import BatchSpec, Settings
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.scoring import Hypothesis

ScoredOutput = Hypothesis[List[int]]  # the best output for a sentence, in ids of fairseq's dictionary


class Program(ABC):
    """A program with the model loaded. What is timed is :meth:`decode` alone, from ids to ids."""

    sources: Sources

    @abstractmethod
    def prepare(self, batches: Sequence[Sequence[Tensor]]) -> None:
        """Brings batches into the form that the program takes. Each source has *Shape:* ``(n)``."""

    @abstractmethod
    def decode(self, tgt_len: int) -> Any:
        """Decodes all batches. ``tgt_len``: words of every output, or 0 for outputs that end by themselves."""

    @abstractmethod
    def hypotheses(self, raw: Any, with_scores: bool) -> List[ScoredOutput]:
        """The best outputs among those that :meth:`decode` returned, in the order of the batches."""


class Sources:
    """The sources of one subset, numbered as in the file."""

    def __init__(self, task: Any, subset: str):
        self.task = task
        self.dictionary = task.source_dictionary
        self.target_dictionary = task.target_dictionary
        self.eos, self.pad = self.dictionary.eos(), self.dictionary.pad()
        try:
            self._dataset = self._load(subset)
        except FileNotFoundError as error:
            raise FairseqElError(f"--gen-subset must name a split of the data set: {error}") from error

    def _load(self, subset: str) -> Any:
        self.task.load_dataset(subset)
        return self.task.dataset(subset)

    @property
    def left_pad(self) -> bool:
        return bool(self._dataset.left_pad_source)

    def __len__(self) -> int:
        return len(self._dataset)

    def cut(self, index: int, src_len: int) -> Tensor:
        """The sentence cut to ``src_len`` tokens. The last one, eos, stays, as in BART's command line."""
        tokens: Tensor = self._dataset[index]["source"]
        return tokens if tokens.numel() <= src_len else torch.cat([tokens[: src_len - 1], tokens[-1:]])

    def batches(self, spec: BatchSpec) -> List[List[int]]:
        """Numbers of the sentences of each batch. Of the whole set, sentences of like length come together."""
        if not spec.whole_set:
            return [list(range(spec.batch))]
        order = sorted(range(len(self)), key=lambda i: min(int(self._dataset.src_sizes[i]), spec.src_len))
        return [order[start : start + spec.batch] for start in range(0, len(order), spec.batch)]


class Prompts(Sources):
    """The lines of one subset of a language model's data. All are cut to the same number of tokens.

    fairseq counts the longest prompt of a batch in ``--max-len-b``, so prompts of several lengths would not be
    continued by the same number of words.
    """

    def _load(self, subset: str) -> Any:
        directory = Path(utils.split_paths(self.task.args.data)[0])
        lines = data_utils.load_indexed_dataset(str(directory / subset), self.dictionary, self.task.args.dataset_impl)
        if lines is None:
            raise FileNotFoundError(f"there is no {subset} in {directory}")
        return lines

    def cut(self, index: int, src_len: int) -> Tensor:
        """The first ``src_len`` tokens of a line; no eos is a part of them.

        Raises:
            OptionError: the line is shorter.
        """
        tokens: Tensor = self._dataset[index]
        if tokens.numel() - 1 < src_len:
            raise OptionError(
                f"--src-len must be at most the length of the shortest prompt: line {index + 1} has "
                f"{tokens.numel() - 1} tokens, and {src_len} were asked for"
            )
        return tokens[:src_len].long()

    def batches(self, spec: BatchSpec) -> List[List[int]]:
        order = list(range(len(self) if spec.whole_set else spec.batch))
        return [order[start : start + spec.batch] for start in range(0, len(order), spec.batch)]


def reads_prompts(data: str) -> bool:
    """Returns whether a directory of fairseq-preprocess is that of a language model: its dictionary has no language."""
    directory = Path(data)
    return (directory / "dict.txt").is_file() and not any(directory.glob("dict.*.txt"))


def configuration(settings: Settings, task: str, extra: Sequence[str] = ()) -> Any:
    """The configuration that fairseq-generate would have."""
    arguments = [settings.data, "--path", settings.path, "--task", task, "--gen-subset", settings.subset, *extra]
    arguments += ["--cpu"] if settings.device == "cpu" else []
    arguments += ["--beam", str(settings.beam), "--lenpen", str(settings.lenpen)]
    if settings.no_repeat_ngram_size:
        arguments += ["--no-repeat-ngram-size", str(settings.no_repeat_ngram_size)]
    if settings.diverse_beam_groups:
        arguments += ["--diverse-beam-groups", str(settings.diverse_beam_groups)]
    for option, language in (("--source-lang", settings.source_lang), ("--target-lang", settings.target_lang)):
        arguments += [option, language] if language is not None else []
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_generation_parser(), arguments))


def task_of(config: Any, data: str) -> Any:
    try:
        return tasks.setup_task(config.task)
    except FairseqElError:  # of options
        raise
    except Exception as error:  # no dictionaries, or no language pair in the names of the files
        raise FairseqElError(
            f"{data} is not a directory that fairseq-preprocess wrote for a pair of languages "
            f"({type(error).__name__}: {error}). Name the languages with --source-lang and --target-lang"
        ) from error


@torch.no_grad()
def forced_scores(
    logits: Callable[[Tensor], Tensor], tokens: List[int], first: int, device: torch.device
) -> List[float]:
    """The logarithm of the probability of each of ``tokens``, normalised in float32 as fairseq does it.

    Args:
        logits: of the next words for what the decoder has read, ``(1, t)`` to ``(1, t, V)``.
        tokens: with the eos, if there is one.
        first: the symbol that the decoder begins with.
        device: of the model.
    """
    next_words = logits(torch.tensor([[first, *tokens[:-1]]], device=device))[0].float().log_softmax(dim=-1)
    scores: List[float] = next_words.gather(1, torch.tensor(tokens, device=device).unsqueeze(1))[:, 0].tolist()
    return scores
