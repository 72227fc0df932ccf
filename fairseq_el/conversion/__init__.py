"""Reads checkpoints of fairseq safely; describes, relabels, strips, averages and merges them; builds their models."""

from fairseq_el.conversion.building import (
    StandInTask,
    build,
    flat_settings,
    most_words,
    numbered_words,
    of_one_pair,
    settings_of,
    with_defaults,
    without_storage,
)
from fairseq_el.conversion.checkpoint import (
    Checkpoint,
    check_sums,
    get_setting,
    load_checkpoint,
    parameters_of,
    read_dictionary,
    save_checkpoint,
)
from fairseq_el.conversion.checkpoint_info import Description, describe, el_limits
from fairseq_el.conversion.limits import HEADS, size_problem
from fairseq_el.conversion.relabel import to_el, to_stock
from fairseq_el.conversion.strip import average, merge_shards, strip

__all__ = [
    "HEADS",
    "Checkpoint",
    "Description",
    "StandInTask",
    "average",
    "build",
    "check_sums",
    "describe",
    "el_limits",
    "flat_settings",
    "get_setting",
    "load_checkpoint",
    "merge_shards",
    "most_words",
    "numbered_words",
    "of_one_pair",
    "parameters_of",
    "read_dictionary",
    "save_checkpoint",
    "settings_of",
    "size_problem",
    "strip",
    "to_el",
    "to_stock",
    "with_defaults",
    "without_storage",
]
