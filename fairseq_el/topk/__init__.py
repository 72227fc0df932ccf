"""Top-k attention and feed-forward layers for fairseq's models.

Gupta, Dar, Goodman, Ciprut, Berant, "Memory-efficient Transformers via Top-k Attention", 2021, arXiv 2106.06899. The
operations are in :mod:`fairseq_el.ops`. EL-attention does without this package: its modules read how many scores of a
query count from their attribute ``score_limit``, which :func:`enable_topk_attention` sets.
"""

from fairseq_el.topk.architectures import TopkBARTModel, TopkTransformerLanguageModel, TopkTransformerModel
from fairseq_el.topk.enable import TopkOptions, apply_topk, disable_topk_attention, enable_topk_attention, topk_enabled

__all__ = [
    "TopkBARTModel",
    "TopkOptions",
    "TopkTransformerLanguageModel",
    "TopkTransformerModel",
    "apply_topk",
    "disable_topk_attention",
    "enable_topk_attention",
    "topk_enabled",
]
