"""The task ``byte_language_modeling``: language models of raw files, byte by byte, without preprocessing."""

# No postponed annotations here: fairseq reads the types of the fields.
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, List, Tuple

import numpy as np
import torch
from fairseq import utils
from fairseq.data import Dictionary, MonolingualDataset
from fairseq.data.encoders.byte_utils import BYTE_TO_BCHAR, SPACE, SPACE_ESCAPE
from fairseq.data.encoders.bytes import Bytes
from fairseq.tasks import register_task
from torch import Tensor

from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.slim.fixed_length import FixedLengthTask, length_problems
from fairseq_el.tasks import ELLanguageModelingConfig

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
