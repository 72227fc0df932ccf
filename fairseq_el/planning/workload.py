"""What is decoded, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from fairseq_el.dtypes import DTYPES

# How decoding keeps its past, and what that is called in tables.
METHODS = {
    "stock": "stock, cache per beam",
    "stock-shared": "stock, cross cache shared by beams",
    "kv": "EL, self-attention kv",
    "el": "EL, self-attention el",
}

DEFAULT_OVERHEAD = 600 << 20  # bytes of a process that are not tensors: 490 to 630 MiB were measured on a CPU

# Of the sentence of a batch whose beams share least: 0.58 to 0.74 were measured for two real models, beams 4 to 10.
_SHARE_OF_FOUR_BEAMS = 0.75


def default_node_share(beam: int) -> float:
    """The share of ``b * t`` words that some living beam still descends from, in the sentence that needs most room.

    One beam shares nothing. Four and more share a quarter even there; two and three are taken to lie in between.
    """
    return max(1.0 - (1.0 - _SHARE_OF_FOUR_BEAMS) * (beam - 1) / 3, _SHARE_OF_FOUR_BEAMS)


@dataclass(frozen=True)
class TorchAttention:
    """How torch's own attention computes.

    Attributes:
        alignment: heads as wide as a multiple of this number are computed block by block (fused); 0: none are. For
            others all scores are there at once, ``h n n`` in the encoder.
        casts: whether 16-bit numbers are computed in float32, on copies, where it is not fused.
    """

    alignment: int = 1
    casts: bool = False

    def fuses(self, head_width: int) -> bool:
        return self.alignment > 0 and head_width % self.alignment == 0


@dataclass(frozen=True)
class Workload:
    """A batch, and how it is decoded.

    Attributes:
        batch: sentences, ``B``.
        beam: beams of each, ``b``.
        src_len: tokens of the longest source, ``n``; of a language model: of the prompt.
        tgt_len: words to generate, ``t`` (``--max-len-b``); the end symbol and, in language models, the prompt come on
            top.
        dtype: a name in ``DTYPES``.
        encoder_tokens: positions that the encoder of an EL model has in flight (``--el-encoder-tokens``).
        overhead: bytes of the process that are not tensors.
        node_share: expected share of the ``b * t`` words that are kept (default: :func:`default_node_share`).
        device: ``"cpu"`` or ``"cuda"``. Their softmax differs in what it copies.
        torch_attention: how torch computes attention under a mask.
        can_pack: whether weights of this dtype can be kept packed here (``fairseq_el.ops.can_pack``).
        keeps_packed: whether packed weights stay from batch to batch, as in ``fairseq-generate``.
        backend: what cross-attention of EL models keeps (``--el-backend``): ``"el"`` or ``"shared-kv"``.
    """

    batch: int
    beam: int
    src_len: int
    tgt_len: int
    dtype: str
    encoder_tokens: int
    overhead: int = 0
    node_share: Optional[float] = None
    device: str = "cpu"
    torch_attention: TorchAttention = TorchAttention()
    can_pack: bool = False
    keeps_packed: bool = False
    backend: str = "el"

    @property
    def rows(self) -> int:
        """Hypotheses under way, ``B b``."""
        return self.batch * self.beam

    @property
    def expected_node_share(self) -> float:
        """The share of the ``b t`` words that are expected to be kept."""
        return default_node_share(self.beam) if self.node_share is None else self.node_share

    @property
    def element_size(self) -> int:
        """``s``."""
        return DTYPES[self.dtype].num_bytes

    @property
    def cast_bytes(self) -> int:
        """Bytes per number that leaves float32 for the model's dtype: 0 where nothing is copied."""
        return 0 if self.element_size == 4 else self.element_size

    @property
    def softmax_bytes(self) -> int:
        """Bytes per number while fairseq takes a softmax in float32: its input, its output, and a copy in between.

        Only CUDA's softmax of float16 reads its input as it is.
        """
        in_place = self.dtype == "fp32" or (self.dtype == "fp16" and self.device == "cuda")
        return self.element_size + (0 if in_place else 4) + 4

    @property
    def el_softmax_bytes(self) -> int:
        """The same in EL models over the vocabulary: on a CPU float32 is overwritten, and others are copied once."""
        if self.device != "cpu":
            return self.softmax_bytes
        return self.element_size + (0 if self.dtype == "fp32" else 4)

    @property
    def attention_bytes(self) -> int:
        """Bytes per attention weight, at most: during the softmax, or when it is cast back (input, output, cast)."""
        return max(self.softmax_bytes, self.element_size + 4 + self.cast_bytes)

    @property
    def el_attention_bytes(self) -> int:
        """Bytes per attention weight in EL models: scores and weights; only float64 is rounded to float32 between."""
        return self.attention_bytes if self.dtype == "fp64" else 2 * self.element_size

    def fuses(self, head_width: int) -> bool:
        """Whether attention keeps no scores in EL models: not where the softmax is to round more than scores do."""
        return self.torch_attention.fuses(head_width) and self.dtype != "fp64"

    def el_feed_forward_bytes(self, gelu: bool, packed: bool) -> int:
        """Bytes per number inside the feed-forward network of EL models; packed, the activation is in the product."""
        if gelu and self.dtype == "fp64":
            return self.feed_forward_bytes(gelu)
        return self.element_size * (1 if packed else 2)

    def feed_forward_bytes(self, gelu: bool) -> int:
        """Bytes per number inside stock's feed-forward network: input and output of its activation, and copies."""
        if not gelu:
            return 2 * self.element_size
        return self.attention_bytes if self.dtype != "fp16" else 2 + 4 + 4  # .float() copies on every device
