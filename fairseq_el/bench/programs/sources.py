"""fairseq's configuration, dictionaries and source sentences, as its own command line makes them."""

from __future__ import annotations

from typing import Any, List, Sequence

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from torch import Tensor

from fairseq_el.bench.settings import BatchSpec, Settings
from fairseq_el.errors import FairseqElError


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


class Sources:
    """The sources of one subset, numbered as in the file."""

    def __init__(self, task: Any, subset: str):
        try:
            task.load_dataset(subset)
        except FileNotFoundError as error:
            raise FairseqElError(f"--gen-subset must name a split of the data set: {error}") from error
        self._dataset = task.dataset(subset)
        self.task = task
        self.dictionary = task.source_dictionary
        self.target_dictionary = task.target_dictionary
        self.eos, self.pad = self.dictionary.eos(), self.dictionary.pad()
        self.left_pad = bool(self._dataset.left_pad_source)

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
