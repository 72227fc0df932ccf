"""fairseq_el: EL-attention for fairseq checkpoints.

A fairseq plugin: ``fairseq-generate DATA --path model.pt --user-dir fairseq_el --task el_translation`` decodes
Transformer and BART checkpoints with the same output and no cache of encoder keys and values. In Python::

    import fairseq_el
    fairseq_el.enable_el_attention(model)

or, from text to text, ``fairseq_el.Generator.from_checkpoint("model.pt", data="data-bin")``.
"""

import importlib
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

_LATE = {"Generator": "fairseq_el.text.generator"}  # imported when they are used: a plugin does without
_IS_OWN_COMMAND = is_own_command()

if not _IS_OWN_COMMAND:
    from fairseq_el.plugin import (
        disable_el_attention,
        disable_topk_attention,
        el_attention_enabled,
        enable_el_attention,
        enable_topk_attention,
    )


def __getattr__(name: str) -> Any:
    # Importing fairseq takes seconds, which not every command of fairseq-el needs. Those that do import the plugin.
    if name not in __all__ or not (_IS_OWN_COMMAND or name in _LATE):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    plugin = importlib.import_module("fairseq_el.plugin")
    return getattr(importlib.import_module(_LATE[name]) if name in _LATE else plugin, name)


__version__ = "0.1.0"

__all__ = [
    "CheckpointMismatchError",
    "FairseqElError",
    "Generator",
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
