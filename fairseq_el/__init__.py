"""fairseq_el: EL-attention for fairseq checkpoints.

A fairseq plugin: ``fairseq-generate DATA --path model.pt --user-dir fairseq_el --task el_translation`` decodes
Transformer and BART checkpoints with the same output and no cache of encoder keys and values. In Python::

    import fairseq_el
    fairseq_el.enable_el_attention(model)
"""

import logging

from fairseq_el._compat import check_fairseq, other_spellings

# Importing fairseq's tasks asks for tensorboardX on every command line; only its speech synthesis needs it.
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

__path__.extend(other_spellings(__path__[0], check_fairseq()))

from fairseq_el.checkpoint_loading import allow_fairseq_checkpoints  # noqa: E402

allow_fairseq_checkpoints()

from fairseq_el import architectures, slim, tasks, tokenization, topk  # noqa: E402, F401  (registers them)
from fairseq_el.decoding import el_attention_enabled  # noqa: E402
from fairseq_el.errors import (  # noqa: E402
    CheckpointMismatchError,
    FairseqElError,
    NoHypothesisError,
    NoKernelsError,
    OptionError,
    OutOfMemoryError,
    UnsupportedModelError,
)
from fairseq_el.generation import disable_el_attention, enable_el_attention  # noqa: E402
from fairseq_el.topk import disable_topk_attention, enable_topk_attention  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "CheckpointMismatchError",
    "FairseqElError",
    "NoHypothesisError",
    "NoKernelsError",
    "OptionError",
    "OutOfMemoryError",
    "UnsupportedModelError",
    "disable_el_attention",
    "disable_topk_attention",
    "el_attention_enabled",
    "enable_el_attention",
    "enable_topk_attention",
]
