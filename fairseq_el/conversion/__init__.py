"""Checkpoints: read safely, relabelled, stripped, merged, described."""

from fairseq_el.conversion.checkpoint import (
    Checkpoint,
    get_setting,
    load_checkpoint,
    parameters_of,
    save_checkpoint,
)
from fairseq_el.conversion.description import Description, describe
from fairseq_el.conversion.dictionaries import read_dictionary
from fairseq_el.conversion.relabel import to_el, to_stock
from fairseq_el.conversion.shards import merge_shards
from fairseq_el.conversion.strip import average, strip

__all__ = [
    "Checkpoint",
    "Description",
    "average",
    "describe",
    "get_setting",
    "load_checkpoint",
    "merge_shards",
    "parameters_of",
    "read_dictionary",
    "save_checkpoint",
    "strip",
    "to_el",
    "to_stock",
]
