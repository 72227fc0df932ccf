"""Registers everything with fairseq: tasks, architectures, criteria, and the classes that a checkpoint may hold."""

import logging

import fairseq_el
from fairseq_el._compat import check_fairseq, other_spellings

# Importing fairseq's tasks asks for tensorboardX on every command line; only its speech synthesis needs it.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

fairseq_el.__path__.extend(other_spellings(fairseq_el.__path__[0], check_fairseq()))

from fairseq_el.checkpoint_loading import allow_fairseq_checkpoints  # noqa: E402

allow_fairseq_checkpoints()

from fairseq_el import architectures, slim, tasks, tokenization, topk  # noqa: E402, F401  (registers them)
from fairseq_el.decoding import el_attention_enabled  # noqa: E402
from fairseq_el.generation import disable_el_attention, enable_el_attention  # noqa: E402
from fairseq_el.topk import disable_topk_attention, enable_topk_attention  # noqa: E402

__all__ = [
    "disable_el_attention",
    "disable_topk_attention",
    "el_attention_enabled",
    "enable_el_attention",
    "enable_topk_attention",
]
