"""The memory and the time of decoding: arithmetic on the shape of a model, without fairseq and without decoding.

Public modules besides: ``report`` (what ``fairseq-el plan`` prints) and ``calibration`` (rates by measurements).
"""

from fairseq_el.planning.cross_attention_cost import (
    Choice,
    choose_backend,
    cross_attention_seconds,
    expected_steps,
    operations_seconds,
)
from fairseq_el.planning.el_memory import state_bytes
from fairseq_el.planning.machine import free_memory, num_cores, process_memory, processor_name, torch_attention
from fairseq_el.planning.memory import Breakdown, largest_batch, memory
from fairseq_el.planning.model_shape import ModelShape, shape_of
from fairseq_el.planning.operations import (
    BACKENDS,
    CrossAttentionShape,
    Operation,
    cross_attention_operations,
    decoder_step_operations,
)
from fairseq_el.planning.rates import (
    Rates,
    default_rates,
    load_rates,
    rates_path,
    refuse_to_replace_others_file,
    save_rates,
    this_processor,
)
from fairseq_el.planning.workload import DEFAULT_OVERHEAD, METHODS, TorchAttention, Workload, default_node_share

__all__ = [
    "BACKENDS",
    "DEFAULT_OVERHEAD",
    "METHODS",
    "Breakdown",
    "Choice",
    "CrossAttentionShape",
    "ModelShape",
    "Operation",
    "Rates",
    "TorchAttention",
    "Workload",
    "choose_backend",
    "cross_attention_operations",
    "cross_attention_seconds",
    "decoder_step_operations",
    "default_node_share",
    "default_rates",
    "expected_steps",
    "free_memory",
    "largest_batch",
    "load_rates",
    "memory",
    "num_cores",
    "operations_seconds",
    "process_memory",
    "processor_name",
    "rates_path",
    "refuse_to_replace_others_file",
    "save_rates",
    "shape_of",
    "state_bytes",
    "this_processor",
    "torch_attention",
]
