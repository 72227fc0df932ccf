"""The options of Top-k attention, which architectures ``topk_*`` and tasks ``el_*`` have."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq_el.topk.enable import ALL_PLACES, DEFAULT_QUERY_CHUNK, enable_topk_attention


@dataclass
class TopkOptions:
    """The options of Top-k attention. Put it before the configuration of a model or a task."""

    topk_attention: Optional[int] = field(
        default=None,
        metadata={
            "help": "attend to the K largest scores of every query only (Gupta et al. 2021); another function than the "
            "checkpoint was trained with, unless K is as large as what there is to attend to"
        },
    )
    topk_attention_in: str = field(
        default=ALL_PLACES,
        metadata={
            "help": "where --topk-attention applies: encoder and decoder (self-attention) and cross, with commas "
            "between them, or all"
        },
    )
    topk_ffn: Optional[int] = field(
        default=None,
        metadata={"help": "keep the K largest hidden units of every token in feed-forward layers with relu or gelu"},
    )
    topk_query_chunk: int = field(
        default=DEFAULT_QUERY_CHUNK,
        metadata={
            "help": f"queries that --topk-attention scores at a time, {DEFAULT_QUERY_CHUNK} at most; without dropout, "
            "results do not depend on it"
        },
    )


def apply_topk(model: Any, settings: Any) -> Any:
    """Enables Top-k attention in ``model`` as the ``settings`` of a model or a task ask for it, and returns the model.

    Raises:
        OptionError: a value is out of range, or the model has no layers that can be Top-k.
    """
    options = TopkOptions()
    for name in vars(options):
        setattr(options, name, getattr(settings, name, getattr(options, name)))
    if options == TopkOptions():
        return model
    return enable_topk_attention(
        model, options.topk_attention, options.topk_attention_in, options.topk_ffn, options.topk_query_chunk
    )
