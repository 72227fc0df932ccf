"""The task ``copying``: random words, a separator, and the same words again.

Likhosherstov et al., "Sub-Linear Memory: How to Make Performers SLiM", NeurIPS 2021, arXiv 2012.11346, section 4.
"""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from fairseq.data import Dictionary, FairseqDataset
from fairseq.data.monolingual_dataset import collate
from fairseq.tasks import register_task

from fairseq_el.errors import OptionError
from fairseq_el.slim.fixed_length import FixedLengthTask, length_problems
from fairseq_el.tasks import ELLanguageModelingConfig

_SPLITS = ("train", "valid", "test")


@dataclass
class CopyingConfig(ELLanguageModelingConfig):
    data: Optional[str] = field(
        default=".", metadata={"help": "not used: samples are drawn as they are needed", "argparse_const": "."}
    )
    copy_symbols: int = field(default=256, metadata={"help": "symbols, the separator among them"})
    copy_examples: int = field(default=10000, metadata={"help": "samples of an epoch; every epoch has new ones"})
    copy_valid_examples: int = field(default=100, metadata={"help": "samples of valid and test, always the same"})


@register_task("copying", dataclass=CopyingConfig)
class CopyingTask(FixedLengthTask):
    """Sequences of ``--tokens-per-sample`` symbols: separator, random symbols, separator, the same symbols.

    Only the second half is predicted (``--report-accuracy`` of ``slim_cross_entropy`` logs how much of it is right).
    """

    dictionary_hint = "Give the --copy-symbols that the model was trained with."

    @classmethod
    def setup_dictionary(cls, args: Any, **kwargs: Any) -> Tuple[Dictionary, Dictionary]:
        """Makes the dictionary of symbols.

        Raises:
            OptionError: an option has a wrong value; all problems are named.
        """
        length, problems = args.tokens_per_sample, []
        if length < 1:
            problems += length_problems(length)
        elif length < 4 or length % 2 != 0:
            problems.append(f"--tokens-per-sample must be even and at least 4: two equal halves; it is {length}")
        if args.copy_symbols < 2:
            problems.append(f"--copy-symbols must be at least 2: a separator and another; it is {args.copy_symbols}")
        for name in ("copy_examples", "copy_valid_examples"):
            if getattr(args, name) < 1:
                problems.append(f"--{name.replace('_', '-')} must be at least 1; it is {getattr(args, name)}")
        if problems:
            raise OptionError("--task copying:" + "".join(f"\n  - {problem}" for problem in problems))
        dictionary = Dictionary()
        for symbol in range(args.copy_symbols):
            dictionary.add_symbol(str(symbol))
        return dictionary, dictionary

    def eval_lm_dataloader(self, dataset: Any, *args: Any, context_window: int = 0, **kwargs: Any) -> Any:
        """Iterates over a dataset as ``fairseq-eval-lm`` wants it.

        Raises:
            OptionError: ``--context-window`` is given.
        """
        if context_window > 0:
            raise OptionError(
                "--task copying has no --context-window: samples have nothing to do with each other; it is "
                f"{context_window}, leave it out"
            )
        return super().eval_lm_dataloader(dataset, *args, **kwargs)

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> "CopyDataset":
        if split not in _SPLITS:
            raise OptionError(f"--task copying has {', '.join(_SPLITS)}; there is no {split}")
        size = self.args.copy_examples if split == "train" else self.args.copy_valid_examples
        seed = (self.args.seed, _SPLITS.index(split))
        self.datasets[split] = CopyDataset(
            self.dictionary, self.args.tokens_per_sample, size, seed, renews=split == "train"
        )
        return self.datasets[split]


class CopyDataset(FairseqDataset):
    """Sequences of the copying task. Each is drawn with a seed of its own, so resumed training sees the same ones."""

    def __init__(self, dictionary: Dictionary, length: int, size: int, seed: Tuple[int, ...], renews: bool):
        """
        Args:
            length: symbols of a sequence, two equal halves.
            size: number of sequences.
            renews: whether every epoch has new sequences.
        """
        self.dictionary, self.length, self.seed, self.renews = dictionary, length, seed, renews
        self.sizes = np.full(size, length - 1)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch if self.renews else 0

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        random = np.random.RandomState([*self.seed, self.epoch, index])
        separator, last = self.dictionary.nspecial, len(self.dictionary)
        half = torch.from_numpy(random.randint(separator + 1, last, self.length // 2))
        half[0] = separator
        words = torch.cat([half, half])
        target = words[1:].clone()
        target[: self.length // 2 - 1] = self.dictionary.pad()
        return {"id": index, "source": words[:-1], "target": target}

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        batch = collate(samples, self.dictionary.pad(), self.dictionary.eos())
        if batch:
            batch["ntokens"] = int(batch["target"].ne(self.dictionary.pad()).sum())
            # fairseq-eval-lm takes targets to begin at 0 otherwise, and would look at the scores of the first half
            batch["start_indices"] = [self.length // 2 - 1] * len(samples)
        return batch

    def num_tokens(self, index: int) -> int:
        return self.length - 1

    def num_tokens_vec(self, indices: Any) -> Any:
        return self.sizes[indices]

    def size(self, index: int) -> int:
        return self.length - 1
