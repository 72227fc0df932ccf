"""How much memory decoding takes: arithmetic on the shape of a model, without fairseq and without decoding."""

from fairseq_el.planning.capacity import capacity_for
from fairseq_el.planning.machine import free_memory, keeps_scores, own_memory
from fairseq_el.planning.memory import Breakdown, largest_batch, memory
from fairseq_el.planning.parts import output_rows_at_once, sentences_at_once
from fairseq_el.planning.shapes import ModelShape, shape_of
from fairseq_el.planning.sizes import format_size, parse_size
from fairseq_el.planning.workload import DEFAULT_OVERHEAD, DTYPES, METHODS, Workload, default_node_share

__all__ = [
    "DEFAULT_OVERHEAD",
    "DTYPES",
    "METHODS",
    "Breakdown",
    "ModelShape",
    "Workload",
    "capacity_for",
    "default_node_share",
    "format_size",
    "free_memory",
    "keeps_scores",
    "largest_batch",
    "memory",
    "output_rows_at_once",
    "own_memory",
    "parse_size",
    "sentences_at_once",
    "shape_of",
]
