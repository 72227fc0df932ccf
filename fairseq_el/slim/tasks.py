"""The tasks ``byte_language_modeling`` and ``copying``, which need no preprocessing: every sample has the same length.

``byte_language_modeling`` trains language models of raw files, byte by byte. ``copying`` has random words, a separator,
and the same words again: Likhosherstov et al., "Sub-Linear Memory: How to Make Performers SLiM", NeurIPS 2021, arXiv
2012.11346, section 4.
"""

# No postponed annotations here: fairseq reads the types of the fields.
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from fairseq import utils
from fairseq.data import Dictionary, FairseqDataset, MonolingualDataset
from fairseq.data.encoders.byte_utils import BYTE_TO_BCHAR, SPACE, SPACE_ESCAPE
from fairseq.data.encoders.bytes import Bytes
from fairseq.data.monolingual_dataset import collate
from fairseq.tasks import register_task
from torch import Tensor

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.tasks import ELLanguageModelingConfig, ELLanguageModelingTask


class FixedLengthTask(ELLanguageModelingTask):
    """Base of tasks whose samples have ``--tokens-per-sample`` words each, except the last."""

    keeps_last_training_batch = True

    def eval_lm_dataloader(
        self, dataset: Any, *args: Any, max_positions: Optional[int] = None, context_window: int = 0, **kwargs: Any
    ) -> Any:
        """Iterates over a dataset as ``fairseq-eval-lm`` wants it.

        Raises:
            OptionError: samples are longer than the model reads. fairseq would leave them out, and report a loss of 0.
        """
        length = self.args.tokens_per_sample + context_window
        if max_positions is not None and length > max_positions:
            raise OptionError(
                f"--tokens-per-sample must be at most what the model reads, {max_positions}; it is {length}. Give the "
                f"model's own, --tokens-per-sample {max_positions}"
            )
        return super().eval_lm_dataloader(
            dataset, *args, max_positions=max_positions, context_window=context_window, **kwargs
        )

    def inference_step(
        self, generator: Any, models: Any, sample: Any, prefix_tokens: Any = None, constraints: Any = None
    ) -> Any:
        """Decodes a batch.

        Raises:
            OptionError: fairseq-generate has no prompt. Without one it would take whole samples, and have no room left.
        """
        if prefix_tokens is None and sample.get("target") is not None:  # fairseq-interactive's samples have none
            raise OptionError(
                "fairseq-generate needs --prefix-size N: how many words of every sample are the prompt; there is none"
            )
        return super().inference_step(generator, models, sample, prefix_tokens=prefix_tokens, constraints=constraints)


def length_problems(length: int) -> List[str]:
    """The problem with a ``--tokens-per-sample`` below 1; empty for any other."""
    if length >= 1:
        return []
    return [
        "--tokens-per-sample must be at least 1, and more than a --context-window, which fairseq-eval-lm takes off it; "
        f"what is left is {length}"
    ]


SPLITS = ("train", "valid", "test")


def byte_dictionary() -> Dictionary:
    """The 256 bytes after fairseq's special symbols, written as fairseq's ``--bpe bytes`` writes them."""
    dictionary = Dictionary()
    for byte in range(256):
        dictionary.add_symbol(BYTE_TO_BCHAR[byte].replace(SPACE, SPACE_ESCAPE))
    return dictionary


@dataclass
class ByteLanguageModelingConfig(ELLanguageModelingConfig):
    byte_splits: str = field(
        default="90,5,5",
        metadata={"help": "where DATA is one file: percent of it, from its beginning, for train, valid and test"},
    )


@register_task("byte_language_modeling", dataclass=ByteLanguageModelingConfig)
class ByteLanguageModelingTask(FixedLengthTask):
    """fairseq's ``language_modeling`` over the bytes of raw files.

    DATA is a directory with one file for each of train, valid and test (``train``, ``train.txt``, ``ptb.train.txt``),
    or one file that is cut into three (enwik8). Every sample has ``--tokens-per-sample`` bytes, the last of a split
    fewer; losses are in bits per byte. Text that is read or written by fairseq-interactive becomes bytes and back.
    """

    dictionary_hint = "The model was not trained on bytes: give the --task and the data that it was trained with."

    @classmethod
    def setup_dictionary(cls, args: Any, **kwargs: Any) -> Tuple[Dictionary, Dictionary]:
        """Makes the dictionary of bytes.

        Raises:
            OptionError: an option has a wrong value; all problems are named.
        """
        problems = length_problems(args.tokens_per_sample)
        if not args.data:
            problems.append("DATA must be a file, or a directory of files; none is given")
        if problems:
            raise OptionError("--task byte_language_modeling:" + "".join(f"\n  - {problem}" for problem in problems))
        dictionary = byte_dictionary()
        return dictionary, dictionary

    def build_bpe(self, args: Any) -> Bytes:
        return Bytes()

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> MonolingualDataset:
        """Loads a split of DATA in blocks of ``--tokens-per-sample`` bytes.

        Raises:
            FairseqElError: there is no such split.
        """
        blocks = ByteBlocks(
            *split_of(Path(utils.split_paths(self.args.data)[0]), split, self.args.byte_splits),
            length=self.args.tokens_per_sample,
            dictionary=self.dictionary,
        )
        # shuffle concerns which samples share a batch: fairseq 0.12.3 would draw that anew when training is resumed in
        # a later epoch, and only then. The order of batches is shuffled in any case.
        self.datasets[split] = MonolingualDataset(
            blocks, blocks.sizes, self.dictionary, self.dictionary, shuffle=False, targets=self.targets
        )
        return self.datasets[split]


class ByteBlocks(torch.utils.data.Dataset):
    """A part of a file in blocks: input, words to predict (the block), and a third that MonolingualDataset ignores.

    The input of a block begins with the byte before it, so every byte of the part is predicted once.
    """

    def __init__(self, path: Path, begin: int, end: int, length: int, dictionary: Dictionary):
        self.path, self.begin, self.end, self.length = path, begin, end, length
        self.first_symbol, self.eos = dictionary.nspecial, dictionary.eos()
        starts = np.arange(begin, end, length)
        self.sizes = np.minimum(starts + length, end) - starts

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tuple[Tensor, Tensor, None]:
        first = self.begin + index * self.length
        with self.path.open("rb") as file:
            file.seek(max(first - 1, self.begin))
            read = file.read(min(first + self.length, self.end) - file.tell())
        symbols = torch.from_numpy(np.frombuffer(read, dtype=np.uint8).astype(np.int64)) + self.first_symbol
        if index == 0:
            symbols = torch.cat([symbols.new_tensor([self.eos]), symbols])
        return symbols[:-1], symbols[1:], None


def split_of(data: Path, split: str, shares: str) -> Tuple[Path, int, int]:
    """The file of a split, and where the split begins and ends in it.

    Raises:
        FairseqElError: there is no such split, or nothing in it.
    """
    if data.is_dir():
        patterns = (split, f"{split}.*", f"*.{split}", f"*.{split}.*")
        found = sorted({path for pattern in patterns for path in data.glob(pattern) if path.is_file()})
        if len(found) != 1:
            there = ", ".join(path.name for path in found) or "none"
            raise FairseqElError(
                f"{data} must have one file for {split}, named {split}, {split}.* or *.{split}.*; it has {there}"
            )
        path, begin, end = found[0], 0, found[0].stat().st_size
    elif data.is_file():
        ends = _ends(shares, data.stat().st_size)
        if split not in SPLITS:
            raise FairseqElError(f"a file is cut into {', '.join(SPLITS)}; there is no {split}")
        number = SPLITS.index(split)
        path, begin, end = data, ends[number - 1] if number > 0 else 0, ends[number]
    else:
        raise FairseqElError(f"DATA must be a file, or a directory of files; there is no {data}")
    if begin == end:
        raise FairseqElError(f"the split {split} of {data} is empty; a split must have at least one byte")
    return path, begin, end


def _ends(shares: str, size: int) -> List[int]:
    """Returns where the three splits of a file of ``size`` bytes end."""
    plain = all(re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*", share) for share in shares.split(","))
    percent = [Fraction(share.strip()) for share in shares.split(",")] if plain else []  # floats' sums are not exact
    if len(percent) != 3 or not 0 < sum(percent) <= 100:
        raise OptionError(
            f"--byte-splits must be three percentages that add up to at most 100, as 90,5,5; it is {shares}"
        )
    return [int(size * sum(percent[: i + 1]) / 100) for i in range(3)]


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
        if split not in SPLITS:
            raise OptionError(f"--task copying has {', '.join(SPLITS)}; there is no {split}")
        size = self.args.copy_examples if split == "train" else self.args.copy_valid_examples
        seed = (self.args.seed, SPLITS.index(split))
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
