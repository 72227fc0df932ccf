"""The model families that both programs have, and their settings in both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

from fairseq_el.conversion.hf import names
from fairseq_el.errors import FairseqElError, shortened

# Hugging Face's name of a function, and fairseq's. The first of several names is the one that is written back.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_accurate",
    "gelu_pytorch_tanh": "gelu_accurate",
    "relu": "relu",
    "swish": "swish",
    "silu": "swish",
    "tanh": "tanh",
    "linear": "linear",
}
ONLY_EL_ACTIVATIONS = ("swish",)  # fairseq 0.12 has the name, but its function fails


@dataclass(frozen=True)
class Family:
    """What all models of a family have in common."""

    name: str
    model_type: str
    architecture: str  # class of the model
    tokenizer: str  # class of the tokenizer
    arch: str  # fairseq's; settings are all explicit, so it only has to be of the right model
    task: str
    pre_norm: bool = False  # layer norms before the blocks, and one after the last layer
    embedding_norm: bool = False
    sinusoidal: bool = False  # positions are computed, and not in the file
    position_offset: int = 0  # rows before position 0 in Hugging Face's table
    eos: int = 2  # where config.json does not say it
    decoder_only: bool = False
    byte_bpe: bool = False  # GPT-2's tokenizer, whose ids are fairseq's symbols
    languages: bool = False  # mBART: symbols [xx_XX] at the end of the dictionary, added by the task

    @property
    def base_prefix(self) -> str:
        """Before the names of tensors; files of the bare model leave it out."""
        return "transformer." if self.decoder_only else "model."

    @property
    def embedding(self) -> str:
        return "transformer.wte.weight" if self.decoder_only else "model.shared.weight"

    @property
    def sides(self) -> Tuple[str, ...]:
        return ("decoder",) if self.decoder_only else ("encoder", "decoder")

    def positions(self, side: str) -> str:
        return "transformer.wpe.weight" if self.decoder_only else f"model.{side}.embed_positions.weight"

    def tied(self) -> List[str]:
        """Other names that the embedding may have in a file."""
        if self.decoder_only:
            return ["lm_head.weight"]
        return ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"]


BART = Family(
    "BART", "bart", "BartForConditionalGeneration", "BartTokenizer", "bart_large", "translation",
    embedding_norm=True, position_offset=2, byte_bpe=True,
)  # fmt: skip
GPT2 = Family(
    "GPT-2", "gpt2", "GPT2LMHeadModel", "GPT2Tokenizer", "transformer_lm", "language_modeling",
    pre_norm=True, decoder_only=True, byte_bpe=True, eos=50256,
)  # fmt: skip
MARIAN = Family(
    "Marian", "marian", "MarianMTModel", "MarianTokenizer", "transformer", "translation", sinusoidal=True, eos=0
)  # fmt: skip
PEGASUS = Family(
    "Pegasus", "pegasus", "PegasusForConditionalGeneration", "PegasusTokenizer", "transformer", "translation",
    pre_norm=True, sinusoidal=True, eos=1,
)  # fmt: skip
MBART50 = Family(
    "mBART-50", "mbart", "MBartForConditionalGeneration", "MBart50Tokenizer", "mbart_large",
    "translation_multi_simple_epoch",
    pre_norm=True, embedding_norm=True, position_offset=2, languages=True,
)  # fmt: skip
MBART25 = Family(
    "mBART-25", "mbart", "MBartForConditionalGeneration", "MBartTokenizer", "mbart_large",
    "translation_from_pretrained_bart",
    pre_norm=True, embedding_norm=True, position_offset=2, languages=True,
)  # fmt: skip
_BARE = {  # classes without a head, whose output projection is the embedding
    "bart": ("BartModel",),
    "gpt2": ("GPT2Model",),
    "marian": ("MarianModel",),
    "pegasus": ("PegasusModel",),
    "mbart": ("MBartModel",),
}
FAMILIES = (BART, GPT2, MARIAN, PEGASUS, MBART50, MBART25)


@dataclass(frozen=True)
class Sizes:
    """What makes a model of its family."""

    d: int
    layers: Dict[str, int]  # by side
    heads: Dict[str, int]
    ffn: Dict[str, int]
    positions: int
    vocab: int
    activation: str  # fairseq's name
    scale: bool  # embeddings are multiplied by sqrt(d)
    dropout: Tuple[float, float, float] = (0.1, 0.0, 0.0)  # of all, of attention, of activations


def family_of(config: Dict[str, Any], tokenizer_class: str, path: Any) -> Family:
    """The family that ``config.json`` names; the two of mBART are told apart by their tokenizer.

    Raises:
        FairseqElError: it is none of those known.
    """
    of_type = [family for family in FAMILIES if family.model_type == config.get("model_type")]
    if not of_type:
        known = ", ".join(sorted({repr(family.model_type) for family in FAMILIES}))
        found = shortened(repr(config.get("model_type")))
        raise FairseqElError(f"model_type in {path} must be one of {known}; it is {found}")
    family = of_type[0]
    classes = (family.architecture, *_BARE.get(family.model_type, ()))
    architectures = config.get("architectures") or classes
    if not isinstance(architectures, (list, tuple)) or not any(name in classes for name in architectures):
        raise FairseqElError(
            f"architectures in {path} must have one of {', '.join(classes)}, which generate text; it has "
            f"{shortened(repr(architectures))}, whose head fairseq has no place for"
        )
    named = [family for family in of_type if tokenizer_class.replace("Fast", "") == family.tokenizer]
    if named or family is not MBART50:
        return (named or of_type)[0]
    return MBART50 if config.get("decoder_start_token_id") == config.get("eos_token_id", 2) else MBART25


def entries(family: Family, sizes: Sizes) -> List[Tuple[names.Entry, Dict[str, int]]]:
    """Every tensor but embeddings and positions, each with what its shape's symbols stand for."""
    if family.decoder_only:
        symbols = {"d": sizes.d, "f": sizes.ffn["decoder"]}
        return [(entry, symbols) for entry in names.gpt2(sizes.layers["decoder"])]
    found = []
    for side in family.sides:
        symbols = {"d": sizes.d, "f": sizes.ffn[side]}
        of_side = names.encoder_decoder(side, sizes.layers[side], family.embedding_norm, family.pre_norm)
        found.extend([(entry, symbols) for entry in of_side])
    return found
