"""Describes a checkpoint: its model, its sizes, its dictionaries, and whether EL-attention decodes it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from fairseq.models import ARCH_MODEL_REGISTRY
from torch import Tensor

from fairseq_el.conversion.building import (
    StandInTask,
    checked_settings,
    language_pairs,
    numbered_words,
    of_one_pair,
    without_storage,
)
from fairseq_el.conversion.checkpoint import Checkpoint, dictionary_names, has_sums, parameters_of, read_dictionary
from fairseq_el.conversion.relabel import stock_name
from fairseq_el.decoding import unsupported_reasons
from fairseq_el.errors import FairseqElError, summary_of

_SIDES = ("encoder", "decoder")


@dataclass
class Description:
    """Describes a checkpoint.

    Attributes:
        checked: whether the file has checksums, which were right when it was read; old formats have none.
        updates: number of training updates; None where the file does not say it.
        numbers: how many numbers the weights have, by dtype; shared ones are counted once.
        bytes: of the file, and of the tensors in its parts ``weights``, ``optimizer`` and ``other``.
        pairs: pairs of languages that each have a model; empty if there is one model.
        symbols: number of rows of each side's embedding, of the first pair's model if there are several.
        dictionaries: number of symbols in each dictionary that was found, by its path.
    """

    path: str
    arch: str
    task: str
    checked: bool
    updates: Optional[int]
    pairs: List[str]
    numbers: Dict[str, int]
    bytes: Dict[str, int]
    symbols: Dict[str, int]
    dictionaries: Dict[str, int]

    def mismatches(self) -> List[str]:
        """Lists the dictionaries whose sizes are not those of this model.

        Tasks other than translation and language modeling may add symbols, such as languages and a mask. For them only
        a dictionary that is too large is wrong.
        """
        rows = set(self.symbols.values())
        exact = stock_name(self.task) in ("translation", "language_modeling")
        return [
            f"{path} has {count:,} symbols, and no embedding of the model has as many rows"
            for path, count in self.dictionaries.items()
            if rows and count not in rows and (exact or count > max(rows))
        ]


def describe(checkpoint: Checkpoint, data: Optional[Path]) -> Description:
    """Describes a checkpoint and the dictionaries beside it.

    Args:
        data: directory of the dictionaries (default: that of the checkpoint).

    Raises:
        FairseqElError: it has no architecture, or a dictionary can't be read.
    """
    state = checkpoint.state
    history = (state.get("optimizer_history") or [{}])[-1]
    directory = Path(checkpoint.path).parent if data is None else data
    others = {name: value for name, value in state.items() if name not in ("model", "last_optimizer_state")}
    files = [directory / name for name in dictionary_names(checkpoint)]
    return Description(
        path=checkpoint.path,
        arch=checkpoint.arch,
        task=checkpoint.task,
        checked=has_sums(checkpoint.path),
        updates=history.get("num_updates"),
        pairs=language_pairs(checkpoint),
        numbers=_numbers(parameters_of(checkpoint.weights)),
        bytes={
            "file": Path(checkpoint.path).stat().st_size,
            "weights": _size(state["model"]),
            "optimizer": _size(state.get("last_optimizer_state")),
            "other": _size(others),
        },
        symbols=_symbols(of_one_pair(checkpoint)),
        dictionaries={str(path): len(read_dictionary(path)) for path in files if path.is_file()},
    )


def _numbers(weights: Dict[str, Tensor]) -> Dict[str, int]:
    counts: Dict[str, int] = Counter()
    for tensor in {(tensor.data_ptr(), tensor.shape): tensor for tensor in weights.values()}.values():
        counts[str(tensor.dtype)[len("torch.") :]] += tensor.numel()
    return dict(counts)


def _size(part: Any) -> int:
    """Adds up the bytes of all tensors in nested dictionaries and lists; shared ones are counted once."""
    sizes = {(tensor.data_ptr(), tensor.shape): tensor.numel() * tensor.element_size() for tensor in _tensors(part)}
    return sum(sizes.values())


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, (dict, list, tuple)):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _tensors(inner)


def _symbols(checkpoint: Checkpoint) -> Dict[str, int]:
    rows: Dict[str, int] = {}
    for side in _SIDES:
        table = checkpoint.weights.get(f"{side}.embed_tokens.weight")
        if table is not None and table.dim() == 2:
            rows[side] = table.size(0)
    return rows


def el_limits(checkpoint: Checkpoint) -> List[str]:
    """Lists everything that keeps EL-attention from decoding the model; empty if nothing does.

    The model is built from its settings, with shapes and no weights, and checked as ``enable_el_attention`` checks it.

    Raises:
        FairseqElError: fairseq can't build the model, or building it is not safe.
    """
    checkpoint = of_one_pair(checkpoint)
    symbols = _symbols(checkpoint)
    if "decoder" not in symbols:
        raise FairseqElError(f"{checkpoint.path} must have decoder.embed_tokens.weight to be checked; it has none")
    settings = checked_settings(checkpoint)
    settings.arch = stock_name(settings.arch)
    task = StandInTask(numbered_words(symbols["decoder"]), numbered_words(symbols.get("encoder", symbols["decoder"])))
    try:
        with without_storage():
            reasons = unsupported_reasons(ARCH_MODEL_REGISTRY[settings.arch].build_model(settings, task))
    except Exception as error:  # any model of fairseq may be in a checkpoint, and fail in its own way
        raise FairseqElError(
            f"fairseq could not build {settings.arch} of {checkpoint.path} by its settings: {summary_of(error)}"
        ) from error
    return reasons
