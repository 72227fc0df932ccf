"""The batch that is decoded, how it is decoded, and the bytes of a number while it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from fairseq_el.dtypes import DTYPES
from fairseq_el.ops import fused_head_dim
from fairseq_el.planning.model_shape import ModelShape

# Ways in which decoding keeps its past, with their names in tables.
METHODS = {
    "stock": "stock, cache per beam",
    "stock-shared": "stock, cross cache shared by beams",
    "kv": "EL, self-attention kv",
    "el": "EL, self-attention el",
}

DEFAULT_OVERHEAD = 600 << 20  # bytes of a process that are not tensors: 490 to 630 MiB were measured on a CPU

# For the sentence of a batch whose beams share least: 0.58 to 0.74 were measured with two real models, beams 4 to 10.
_SHARE_OF_FOUR_BEAMS = 0.75


def default_node_share(beam: int) -> float:
    """The share of ``b t`` words that a living beam descends from, in the sentence of a batch whose beams share least.

    One beam shares nothing. Four and more share a quarter even there. Two and three lie on the line between.
    """
    return max(1.0 - (1.0 - _SHARE_OF_FOUR_BEAMS) * (beam - 1) / 3, _SHARE_OF_FOUR_BEAMS)


@dataclass(frozen=True)
class TorchAttention:
    """The way in which torch's own attention computes.

    Attributes:
        alignment: heads whose width is a multiple of this number are computed block by block (fused); 0: none are. For
            other heads all scores are in memory at once, ``h n n`` in the encoder.
        casts: unfused attention computes 16-bit numbers in float32, on copies.
    """

    alignment: int = 1
    casts: bool = False

    def fuses(self, head_width: int) -> bool:
        """Returns whether heads of this width are computed block by block."""
        return self.alignment > 0 and head_width % self.alignment == 0


@dataclass(frozen=True)
class Workload:
    """A batch, and how it is decoded.

    Attributes:
        batch: sentences, ``B``.
        beam: beams of each, ``b``.
        src_len: tokens of the longest source, ``n``; of a language model: of the prompt.
        tgt_len: words to generate, ``t`` (``--max-len-b``). The end symbol and the prompt of a language model are not
            counted.
        dtype: a name in ``fairseq_el.dtypes.DTYPES``.
        encoder_tokens: positions that the encoder of an EL model reads together (``--el-encoder-tokens``).
        overhead: bytes of the process that are not tensors.
        node_share: expected share of the ``b t`` words that are kept (default: :func:`default_node_share`).
        device: ``"cpu"`` or ``"cuda"``. Their softmax makes different copies.
        torch_attention: how torch computes attention under a mask.
        can_pack: weights of this dtype can be kept packed here (``fairseq_el.ops.can_pack``).
        keeps_packed: packed weights stay from batch to batch, as in ``fairseq-generate``.
        int8: linear layers are computed from copies of their weights in 8 bits, and the copies stay (``--el-weights``).
        native_threads: threads of native code, which decodes with EL-attention; 0: steps are in Python.
        backend: ``"el"`` or ``"shared-kv"``, what cross-attention of EL models keeps (``--el-backend``).
        graphs: steps of EL models stay in place, and are replayed from CUDA graphs (``--el-cuda-graphs``).
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
    int8: bool = False
    native_threads: int = 0
    backend: str = "el"
    graphs: bool = False

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
        """Bytes per number, ``s``."""
        return DTYPES[self.dtype].num_bytes

    @property
    def cast_bytes(self) -> int:
        """Bytes of the copy of a float32 number in the model's dtype; 0 where the dtype is float32."""
        return 0 if self.element_size == 4 else self.element_size

    @property
    def softmax_bytes(self) -> int:
        """Bytes per number while fairseq takes a softmax in float32: input, float32 copy of the input, and output.

        float32 needs no copy; nor does float16 on CUDA, whose softmax reads it as it is.
        """
        in_place = self.dtype == "fp32" or (self.dtype == "fp16" and self.device == "cuda")
        return self.element_size + (0 if in_place else 4) + 4

    @property
    def el_softmax_bytes(self) -> int:
        """Bytes per number in the softmax of EL models over the vocabulary; on a CPU it overwrites float32 numbers."""
        if self.device != "cpu":
            return self.softmax_bytes
        return self.element_size + (0 if self.dtype == "fp32" else 4)

    @property
    def attention_bytes(self) -> int:
        """Bytes per attention weight at the peak: in the softmax, or when its output is cast back."""
        return max(self.softmax_bytes, self.element_size + 4 + self.cast_bytes)

    @property
    def el_attention_bytes(self) -> int:
        """Bytes per attention weight in EL models: a score and a weight; only float64 is copied to float32 between."""
        return self.attention_bytes if self.dtype == "fp64" else 2 * self.element_size

    def kv_attention_bytes(self, heads: int, width: int, rows: int, num_keys: int, length: int, per_weight: int) -> int:
        """Bytes that attention under a mask holds in EL models, beside queries, keys, values and contexts.

        On a card in 16 bits, heads of a width that torch does not fuse are copied, with zeros: queries, keys, values
        and contexts. Fused attention holds nothing else. In float64 nothing is fused: the softmax is in float32.

        Args: as those of :meth:`unfused_attention_bytes`.
        """
        head_width = width // max(heads, 1)  # an encoder without layers has none
        padded = fused_head_dim(head_width, self.device, self.element_size)
        copies = 0 if padded == head_width else 2 * self.element_size * heads * padded * (rows + num_keys)
        if self.torch_attention.fuses(padded) and self.dtype != "fp64":
            return copies
        return copies + self.unfused_attention_bytes(heads, heads * padded, rows, num_keys, length, per_weight)

    def el_feed_forward_bytes(self, gelu: bool, packed: bool) -> int:
        """Bytes per hidden unit in the feed-forward network of EL models; a packed product applies the activation."""
        if gelu and self.dtype == "fp64":
            return self.feed_forward_bytes(gelu)
        return self.element_size * (1 if packed else 2)

    def feed_forward_bytes(self, gelu: bool) -> int:
        """Bytes per hidden unit in fairseq's feed-forward network: the activation's input, output and copies."""
        if not gelu:
            return 2 * self.element_size
        return self.attention_bytes if self.dtype != "fp16" else 2 + 4 + 4  # .float() copies on every device

    def hypothesis_length(self, shape: ModelShape) -> int:
        """Words of a hypothesis with the symbols before and after them, and with the prompt of a language model."""
        return self.tgt_len + 2 + (self.src_len if shape.decoder_only else 0)

    def buffer_bytes(self, shape: ModelShape, per_word: int) -> int:
        """Bytes of the source's tokens and of all hypotheses, with ``per_word`` bytes for each of their words."""
        return 8 * self.batch * self.src_len + per_word * self.rows * self.hypothesis_length(shape)

    def unfused_attention_bytes(
        self, heads: int, width: int, rows: int, num_keys: int, length: int, per_weight: int
    ) -> int:
        """Bytes that attention which is not fused holds beside queries, keys, values and contexts.

        It holds scaled queries, and scores with their softmax, or scaled keys before them. Where torch casts, it also
        holds float32 copies of all that it reads.

        Args:
            rows: number of queries. Each sees ``length`` of all ``num_keys`` keys.
            per_weight: bytes per attention weight where torch does not cast.
        """
        casts = self.torch_attention.casts and self.element_size == 2
        size = 4 if casts else self.element_size
        copies = 4 * width * (rows + 2 * num_keys) if casts else 0
        num_scores = rows * heads * length
        scores = max(num_scores * (8 if casts else per_weight), size * (num_scores + width * num_keys))
        return copies + size * width * rows + scores
