"""fairseq_el: EL-attention for fairseq checkpoints.

A fairseq plugin: ``fairseq-generate DATA --path model.pt --user-dir fairseq_el --task el_translation`` decodes
Transformer and BART checkpoints with the same output and no cache of encoder keys and values. In Python::

    import fairseq_el
    fairseq_el.enable_el_attention(model)
"""

from typing import Any

from fairseq_el._compat import is_own_command
from fairseq_el.errors import (
    CheckpointMismatchError,
    FairseqElError,
    NoHypothesisError,
    NoKernelsError,
    OptionError,
    OutOfMemoryError,
    UnsupportedModelError,
)

if is_own_command():
    # Importing fairseq takes seconds, which not every command of fairseq-el needs. Those that do import the plugin.
    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from fairseq_el import plugin

        return getattr(plugin, name)

else:
    from fairseq_el.plugin import (
        disable_el_attention,
        disable_topk_attention,
        el_attention_enabled,
        enable_el_attention,
        enable_topk_attention,
    )

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
