"""How much memory and time decoding takes: arithmetic on the shape of a model, without fairseq and without decoding."""

from fairseq_el.planning.capacity import capacity_for
from fairseq_el.planning.cost import (
    Choice,
    choose_backend,
    cross_attention_seconds,
    expected_steps,
    format_seconds,
    operations_seconds,
)
from fairseq_el.planning.machine import free_memory, keeps_scores, own_memory
from fairseq_el.planning.memory import Breakdown, largest_batch, memory
from fairseq_el.planning.parts import output_rows_at_once, sentences_at_once
from fairseq_el.planning.rates import Rates, default_rates, load_rates, rates_path, save_rates
from fairseq_el.planning.shapes import ModelShape, place_of, shape_of
from fairseq_el.planning.sizes import format_size, parse_size
from fairseq_el.planning.work import (
    BACKENDS,
    CrossAttention,
    CrossAttentionWork,
    Operation,
    cross_attention_work,
    decoder_step_work,
)
from fairseq_el.planning.workload import DEFAULT_OVERHEAD, DTYPES, METHODS, Workload, default_node_share

__all__ = [
    "BACKENDS",
    "DEFAULT_OVERHEAD",
    "DTYPES",
    "METHODS",
    "Breakdown",
    "Choice",
    "CrossAttention",
    "CrossAttentionWork",
    "ModelShape",
    "Operation",
    "Rates",
    "Workload",
    "capacity_for",
    "choose_backend",
    "cross_attention_seconds",
    "cross_attention_work",
    "decoder_step_work",
    "default_node_share",
    "default_rates",
    "expected_steps",
    "format_seconds",
    "format_size",
    "free_memory",
    "keeps_scores",
    "largest_batch",
    "load_rates",
    "memory",
    "operations_seconds",
    "output_rows_at_once",
    "own_memory",
    "parse_size",
    "place_of",
    "rates_path",
    "save_rates",
    "sentences_at_once",
    "shape_of",
]
