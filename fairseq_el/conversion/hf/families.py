"""The model families that both programs have: their settings, and the names of their tensors in both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.conversion.hf.languages import M2M, MBART, NLLB, LanguageTokens
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
    """Holds what all models of a family have in common."""

    name: str
    model_type: str
    architecture: str  # class of the model
    tokenizer: str  # class of the tokenizer
    arch: str  # fairseq's; all settings are explicit, so any architecture of the right model will do
    task: str
    pre_norm: bool = False  # layer norms before the blocks, and one after the last layer
    embedding_norm: bool = False
    sinusoidal: bool = False  # positions are computed, and not in the file
    same_sinusoids: bool = False  # as fairseq computes them, so that no file needs them
    output_bias: bool = True  # Hugging Face's model has final_logits_bias
    position_offset: int = 0  # rows before position 0 in Hugging Face's table
    eos: int = 2  # id, where config.json does not name it
    decoder_only: bool = False
    byte_bpe: bool = False  # GPT-2's tokenizer, whose ids are fairseq's symbols
    languages: Optional[LanguageTokens] = None  # of multilingual models, which have a symbol for each

    @property
    def base_prefix(self) -> str:
        """The beginning of all names of tensors; files of the bare model leave it out."""
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
        """Lists the other names that the embedding may have in a file."""
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
    pre_norm=True, embedding_norm=True, position_offset=2, languages=MBART,
)  # fmt: skip
MBART25 = Family(
    "mBART-25", "mbart", "MBartForConditionalGeneration", "MBartTokenizer", "mbart_large",
    "translation_from_pretrained_bart",
    pre_norm=True, embedding_norm=True, position_offset=2, languages=MBART,
)  # fmt: skip
M2M100 = Family(
    "M2M-100", "m2m_100", "M2M100ForConditionalGeneration", "M2M100Tokenizer", "transformer",
    "translation_multi_simple_epoch",
    pre_norm=True, sinusoidal=True, same_sinusoids=True, output_bias=False, languages=M2M,
)  # fmt: skip
NLLB200 = Family(
    "NLLB", "m2m_100", "M2M100ForConditionalGeneration", "NllbTokenizer", "transformer",
    "translation_multi_simple_epoch",
    pre_norm=True, sinusoidal=True, same_sinusoids=True, output_bias=False, languages=NLLB,
)  # fmt: skip
_BARE = {  # classes without a head, whose output projection is the embedding
    "bart": ("BartModel",),
    "gpt2": ("GPT2Model",),
    "marian": ("MarianModel",),
    "pegasus": ("PegasusModel",),
    "mbart": ("MBartModel",),
    "m2m_100": ("M2M100Model",),
}
FAMILIES = (BART, GPT2, MARIAN, PEGASUS, MBART50, MBART25, M2M100, NLLB200)
_GENERAL_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizer")
_WITH_EXPERTS = ("nllb-moe", "switch_transformers")  # types of models


@dataclass(frozen=True)
class ModelSizes:
    """Holds the sizes and settings in which the models of a family differ."""

    d: int  # width of the hidden states
    layers: Dict[str, int]  # by side
    heads: Dict[str, int]
    ffn: Dict[str, int]
    positions: int
    vocab: int
    activation: str  # fairseq's name
    scale: bool  # embeddings are multiplied by sqrt(d)
    dropout: Tuple[float, float, float] = (0.1, 0.0, 0.0)  # everywhere, of attention weights, of activations
    layerdrop: Tuple[float, float] = (0.0, 0.0)  # of encoder and decoder: the share of layers that training leaves out


def family_of(config: Dict[str, Any], tokenizer_class: str, path: Any) -> Family:
    """Finds the family that ``config.json`` names; the tokenizer tells those of one type apart.

    Raises:
        FairseqElError: the family is not known, or the class of the model has a head that fairseq does not have.
    """
    of_type = [family for family in FAMILIES if family.model_type == config.get("model_type")]
    if config.get("model_type") in _WITH_EXPERTS:
        raise FairseqElError(
            f"model_type in {path} must be that of a model with dense layers; {config['model_type']} has mixtures of "
            "experts, and fairseq's Transformer has none. Convert a dense model, such as nllb-200-distilled-600M"
        )
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
    if named or family not in (MBART50, M2M100):
        return (named or of_type)[0]
    if family is M2M100:  # whose tokenizer has no other class; NLLB's may be loaded by a general one
        return NLLB200 if tokenizer_class.replace("Fast", "") in _GENERAL_TOKENIZERS else M2M100
    return MBART50 if config.get("decoder_start_token_id") == config.get("eos_token_id", 2) else MBART25


class TensorPair(NamedTuple):
    """One tensor of Hugging Face's models, and the tensors of fairseq's that it holds."""

    hf: str
    fairseq: Tuple[str, ...]  # stacked along their first dimension
    shape: Tuple[int, ...]  # of each of fairseq's
    transposed: bool = False  # in Hugging Face's file, after stacking (Conv1D)

    @property
    def hf_shape(self) -> Tuple[int, ...]:
        stacked = (self.shape[0] * len(self.fairseq), *self.shape[1:])
        return tuple(reversed(stacked)) if self.transposed else stacked

    def split(self, tensor: Tensor) -> Dict[str, Tensor]:
        """Cuts Hugging Face's tensor into fairseq's."""
        if self.transposed:
            tensor = tensor.t()
        return {name: part.contiguous() for name, part in zip(self.fairseq, tensor.chunk(len(self.fairseq)))}

    def join(self, tensors: Dict[str, Tensor]) -> Tensor:
        """Makes Hugging Face's tensor of fairseq's; the reverse of :meth:`split`."""
        parts = [tensors[name] for name in self.fairseq]
        stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
        return stacked.t().contiguous() if self.transposed else stacked


def layer_tensors(family: Family, sizes: ModelSizes) -> List[TensorPair]:
    """Lists every tensor of a model but embeddings and positions."""
    found: List[TensorPair] = []
    for side in family.sides:
        hf, layers = ("transformer.", "h") if family.decoder_only else (f"model.{side}.", "layers")
        for index in range(sizes.layers[side]):
            of_side = (sizes.d, sizes.ffn[side])
            layer = _gpt2_layer(*of_side) if family.decoder_only else _bart_layer(side, *of_side)
            found.extend(_under(layer, f"{hf}{layers}.{index}.", f"{side}.layers.{index}."))
        if family.embedding_norm:
            found.extend(_under(_norm("layernorm_embedding", sizes.d), hf, f"{side}."))
        if family.pre_norm:
            name = "ln_f" if family.decoder_only else "layer_norm"
            found.extend(_under(_norm(name, sizes.d, "layer_norm"), hf, f"{side}."))
    return found


def _under(pairs: Iterator[TensorPair], hf_prefix: str, fairseq_prefix: str) -> Iterator[TensorPair]:
    for pair in pairs:
        yield pair._replace(hf=hf_prefix + pair.hf, fairseq=tuple(fairseq_prefix + name for name in pair.fairseq))


def _norm(hf: str, d: int, fairseq: str = "") -> Iterator[TensorPair]:
    for kind in ("weight", "bias"):
        yield TensorPair(f"{hf}.{kind}", (f"{fairseq or hf}.{kind}",), (d,))


def _linear(name: str, out: int, into: int) -> Iterator[TensorPair]:
    yield TensorPair(f"{name}.weight", (f"{name}.weight",), (out, into))
    yield TensorPair(f"{name}.bias", (f"{name}.bias",), (out,))


def _conv1d(hf: str, out: int, into: int, *fairseq: str) -> Iterator[TensorPair]:
    """Yields weight and bias of GPT-2's layer, whose weight is transposed and may hold several of fairseq's."""
    yield TensorPair(f"{hf}.weight", tuple(f"{name}.weight" for name in fairseq), (out, into), transposed=True)
    yield TensorPair(f"{hf}.bias", tuple(f"{name}.bias" for name in fairseq), (out,))


def _attention(name: str, d: int) -> Iterator[TensorPair]:
    for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
        yield from _linear(f"{name}.{projection}", d, d)
    yield from _norm(f"{name}_layer_norm", d)


def _bart_layer(side: str, d: int, ffn: int) -> Iterator[TensorPair]:
    yield from _attention("self_attn", d)
    if side == "decoder":
        yield from _attention("encoder_attn", d)
    yield from _linear("fc1", ffn, d)
    yield from _linear("fc2", d, ffn)
    yield from _norm("final_layer_norm", d)


def _gpt2_layer(d: int, ffn: int) -> Iterator[TensorPair]:
    yield from _norm("ln_1", d, "self_attn_layer_norm")
    yield from _conv1d("attn.c_attn", d, d, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    yield from _conv1d("attn.c_proj", d, d, "self_attn.out_proj")
    yield from _norm("ln_2", d, "final_layer_norm")
    yield from _conv1d("mlp.c_fc", ffn, d, "fc1")
    yield from _conv1d("mlp.c_proj", d, ffn, "fc2")
