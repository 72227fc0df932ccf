"""Architecture ``slim_performer_lm``, and the paper's configurations I to IV as ``slim_performer_lm_1`` to ``_4``.

Likhosherstov et al., "Sub-Linear Memory: How to Make Performers SLiM", NeurIPS 2021, arXiv 2012.11346, section 4. The
length ``L`` of a configuration is the task's ``--tokens-per-sample``:

========================  =====  ======  =====  =====
architecture              L      layers  d      heads
``slim_performer_lm_1``   8192   1       1024   16
``slim_performer_lm_2``   1024   3       512    8
``slim_performer_lm_3``   4096   3       1024   16
``slim_performer_lm_4``   16384  3       1024   16
========================  =====  ======  =====  =====
"""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import FairseqLanguageModel, register_model, register_model_architecture
from omegaconf import II

from fairseq_el.ops import FEATURE_MAPS
from fairseq_el.slim.decoder import SlimDecoder

CONFIGURATIONS = {  # L, layers and d of the paper's
    "slim_performer_lm_1": (8192, 1, 1024),
    "slim_performer_lm_2": (1024, 3, 512),
    "slim_performer_lm_3": (4096, 3, 1024),
    "slim_performer_lm_4": (16384, 3, 1024),
}

FeatureMap = ChoiceEnum(list(FEATURE_MAPS))


@dataclass
class SlimPerformerLMConfig(FairseqDataclass):
    decoder_layers: int = field(default=3, metadata={"help": "layers"})
    decoder_embed_dim: int = field(
        default=512, metadata={"help": "width d: half embeddings of words, half sinusoids of positions"}
    )
    decoder_ffn_embed_dim: int = field(default=0, metadata={"help": "width of feed-forward blocks (default: 4 d)"})
    decoder_attention_heads: int = field(default=0, metadata={"help": "heads (default: d / 64, at least 1)"})
    decoder_normalize_before: bool = field(
        default=False,
        metadata={
            "help": "layer norm at the beginning of every residual branch, instead of at its end as in the paper"
        },
    )
    feature_map: FeatureMap = field(  # type: ignore[valid-type]
        default="sqr", metadata={"help": "what stands in for the exponential of softmax attention"}
    )
    num_features: int = field(
        default=0, metadata={"help": "random features per head of --feature-map favor+ (default: the width of a head)"}
    )
    feature_seed: int = field(default=1, metadata={"help": "seed of the random features; they are part of checkpoints"})
    redraw_features: int = field(
        default=0,
        metadata={
            "help": "draw the random features of --feature-map favor+ anew every N updates; 1 is the authors' way "
            "(default: 0, never)"
        },
    )
    dropout: float = field(
        default=0.0, metadata={"help": "must be 0: sliced training computes every slice twice, and must find the same"}
    )
    tokens_per_sample: int = II("task.tokens_per_sample")
    max_target_positions: Optional[int] = II("task.max_target_positions")


@register_model("slim_performer_lm", dataclass=SlimPerformerLMConfig)
class SlimPerformerLanguageModel(FairseqLanguageModel):
    """A language model with causal linear attention. It is *not* a drop-in for Transformers: it has to be trained.

    Trained with ``--criterion slim_cross_entropy --slice-length C`` it needs activations for ``C`` words, whatever the
    length of a sample; with any other criterion of fairseq's, for all.
    """

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "SlimPerformerLanguageModel":
        slim_architecture(args)
        return cls(SlimDecoder(args, task.target_dictionary))


def slim_architecture(args: Any) -> None:
    """Fills in what depends on the width, and what older checkpoints do not say."""
    args.redraw_features = getattr(args, "redraw_features", 0)
    args.decoder_ffn_embed_dim = args.decoder_ffn_embed_dim or 4 * args.decoder_embed_dim
    args.decoder_attention_heads = args.decoder_attention_heads or max(args.decoder_embed_dim // 64, 1)


def _register_configuration(name: str, num_layers: int, width: int) -> None:
    @register_model_architecture("slim_performer_lm", name)
    def configuration(args: Any) -> None:
        args.decoder_layers = getattr(args, "decoder_layers", num_layers)
        args.decoder_embed_dim = getattr(args, "decoder_embed_dim", width)


for _name, (_length, _num_layers, _width) in CONFIGURATIONS.items():
    _register_configuration(_name, _num_layers, _width)
