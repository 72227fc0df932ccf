"""The SLiM Performer as a fairseq decoder: trained whole or in slices, decoded with a state that does not grow.

Likhosherstov et al., "Sub-Linear Memory: How to Make Performers SLiM", NeurIPS 2021, arXiv 2012.11346, section 2.

Every pass is over a slice of the sequence. The layers get a function ``attend``, which knows the slices before (see
:mod:`fairseq_el.ops.sliced_loss`). A whole sequence, one word of a hypothesis, and a slice of training differ in
nothing else.

Symbols: ``B`` sentences, ``t`` positions of a slice, ``h`` heads, ``d`` width, ``dh = d / h``, ``M`` features, ``V``
words of the vocabulary.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Optional, Tuple

import torch
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor, nn
from torch.nn import functional

from fairseq_el.errors import OptionError
from fairseq_el.ops import (
    FEATURE_MAPS,
    Attend,
    Sums,
    attend_within,
    feature_map,
    linear_attention,
    linear_attention_step,
    orthogonal_directions,
)

_STATE = "sums"


class SlimLayer(nn.Module):
    """Attention and feed-forward block, each with a layer norm and a residual connection around it.

    The norm is at the end of the branch, ``x + norm(f(x))``, as in the paper's equations; with ``normalize_before`` at
    its beginning, ``x + f(norm(x))``. Heads are not mixed by an output projection. There is no dropout.
    """

    directions: Optional[Tensor]

    def __init__(self, number: int, cfg: Any):
        super().__init__()
        width, self.num_heads = cfg.decoder_embed_dim, cfg.decoder_attention_heads
        self.number = number
        self.feature_map = str(cfg.feature_map)
        self.normalize_before = cfg.decoder_normalize_before
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, cfg.decoder_ffn_embed_dim)
        self.fc2 = nn.Linear(cfg.decoder_ffn_embed_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.redraw_features = cfg.redraw_features
        self._seed, self._seeds_of_a_draw = cfg.feature_seed + number, cfg.decoder_layers
        self._num_features = cfg.num_features or width // self.num_heads
        directions = self._draw(0) if self.feature_map == "favor+" else None
        self.register_buffer("directions", directions)  # in the state dict: what the model computes depends on them

    def set_num_updates(self, num_updates: int) -> None:
        """Draws random features anew when it is time to. fairseq calls it before every update, once for all batches.

        What is drawn depends on the seed and ``num_updates`` alone. So all slices of an update have the same features,
        workers have the same, and training that is resumed goes on with those that it would have had.
        """
        if self.redraw_features and self.directions is not None:
            self.directions.copy_(self._draw(num_updates // self.redraw_features))

    def _draw(self, number: int) -> Tensor:
        """Directions of the features, ``(h, M, dh)``; every layer and ``number`` of a draw has a seed of its own."""
        seed = self._seed + number * self._seeds_of_a_draw
        head_dim = self.q_proj.in_features // self.num_heads
        return orthogonal_directions(self.num_heads, self._num_features, head_dim, seed)

    def forward(self, x: Tensor, padding: Optional[Tensor], attend: Attend) -> Tensor:
        """Runs the layer.

        Args:
            x: *Shape:* ``(B, t, d)``.
            padding: True at padding, which no position sees, or None. *Shape:* ``(B, t)``.

        Returns:
            *Shape:* ``(B, t, d)``.
        """
        x = x + self._branch(self.self_attn_layer_norm, lambda y: self._attend(y, padding, attend), x)
        return x + self._branch(self.final_layer_norm, lambda y: self.fc2(functional.gelu(self.fc1(y))), x)

    def _branch(self, norm: nn.Module, function: Any, x: Tensor) -> Tensor:
        return function(norm(x)) if self.normalize_before else norm(function(x))

    def _attend(self, x: Tensor, padding: Optional[Tensor], attend: Attend) -> Tensor:
        shape = (*x.shape[:2], self.num_heads, -1)
        at_least = torch.promote_types(x.dtype, torch.float32)  # sums are long
        query, key, value = (f(x).to(at_least).view(shape) for f in (self.q_proj, self.k_proj, self.v_proj))
        with torch.autocast(x.device.type, enabled=False):  # --amp would take them to half precision again
            # (B, t, h, dh) -> (B, t, h, M)
            query = feature_map(self.feature_map, query, self.directions, of_queries=True)
            key = feature_map(self.feature_map, key, self.directions)
            if padding is not None:
                key = key.masked_fill(padding[:, :, None, None], 0)
            return attend(self.number, query, key, value).reshape(x.shape).to(x.dtype)


class SlimDecoder(FairseqIncrementalDecoder):
    """The decoder of SLiM Performers.

    Half of the width is the word's embedding, half are sinusoids of its position, as in the authors' models. Both are
    made slice by slice, so the length of a sequence is not limited.

    Attributes:
        has_linear_attention: says that EL-attention has nothing to do here.
    """

    has_linear_attention = True

    def __init__(self, cfg: Any, dictionary: Any):
        """Builds the decoder.

        Raises:
            OptionError: a setting has a wrong value; all problems are named.
        """
        super().__init__(dictionary)
        _check_settings(cfg)
        self.padding_idx = dictionary.pad()
        self.max_target_positions = cfg.max_target_positions or cfg.tokens_per_sample
        self.embed_tokens = nn.Embedding(len(dictionary), cfg.decoder_embed_dim // 2, self.padding_idx)
        self.layers = nn.ModuleList([SlimLayer(number, cfg) for number in range(cfg.decoder_layers)])
        self.output_projection = nn.Linear(cfg.decoder_embed_dim, len(dictionary))

    def forward(
        self,
        prev_output_tokens: Tensor,
        encoder_out: Any = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        features_only: bool = False,
        **unused: Any,
    ) -> Tuple[Tensor, Dict[str, Any]]:
        """Computes logits ``(B, t, V)`` of the words after ``prev_output_tokens`` ``(B, t)``, as fairseq's decoders.

        With an ``incremental_state`` only words are read that were not read before; all but the last word of the first
        call are a prompt, read in one pass. The state is ``h (M dh + M)`` numbers per layer and row, however long.
        """
        x = self.extract_features(prev_output_tokens, encoder_out, incremental_state)[0]
        return (x if features_only else self.output_layer(x)), {"attn": [None], "inner_states": None}

    def extract_features(
        self, prev_output_tokens: Tensor, encoder_out: Any = None, incremental_state: Any = None, **unused: Any
    ) -> Tuple[Tensor, Dict[str, Any]]:
        extra: Dict[str, Any] = {"attn": [None], "inner_states": None}
        if incremental_state is None:
            return self.features(prev_output_tokens, 0, attend_within), extra
        state = self.get_incremental_state(incremental_state, _STATE) or {}
        decoding = _DecodeSums(state)
        first = prev_output_tokens.size(1) - 1 if state else 0
        x = self.features(prev_output_tokens[:, first:], first, decoding.attend)
        self.set_incremental_state(incremental_state, _STATE, state)
        return x, extra

    def features(self, tokens: Tensor, first: int, attend: Attend) -> Tensor:
        """The output of the last layer for a slice.

        Args:
            tokens: the words of the slice. *Shape:* ``(B, t)``.
            first: the position of the first of them in the sequence.
            attend: called by every layer in turn.

        Returns:
            *Shape:* ``(B, t, d)``.
        """
        padding: Optional[Tensor] = tokens.eq(self.padding_idx)
        if tokens.size(1) > 1 and not bool(padding.any()):  # type: ignore[union-attr]
            padding = None  # one word of a step is masked unseen: asking would make the host wait for the device
        x = self.embed_tokens(tokens)
        x = torch.cat([x, self._positions(first, tokens.size(1), x).expand_as(x)], dim=2)
        for layer in self.layers:
            x = layer(x, padding, attend)
        return x

    def _positions(self, first: int, length: int, like: Tensor) -> Tensor:
        """Sinusoids of the positions from ``first`` on. *Shape:* ``(length, d / 2)``."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        width = self.embed_tokens.embedding_dim
        rates = torch.exp(torch.arange(0, width, 2, dtype=dtype, device=like.device) * (-math.log(10000) / width))
        positions = torch.arange(first, first + length, dtype=dtype, device=like.device)
        angles = positions.unsqueeze(1) * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)

    def output_layer(self, features: Tensor, **unused: Any) -> Tensor:
        return self.output_projection(features)

    def max_positions(self) -> int:
        return self.max_target_positions

    def reorder_incremental_state(self, incremental_state: Dict[str, Any], new_order: Tensor) -> None:
        """Follows the beams. ``new_order``: for each row that stays, the row it continues."""
        state = self.get_incremental_state(incremental_state, _STATE)
        for name, tensor in (state or {}).items():
            state[name] = tensor.index_select(0, new_order)


class _DecodeSums:
    """Every layer's sums in a dictionary, as fairseq keeps incremental state."""

    def __init__(self, state: Dict[str, Tensor]):
        self.state = state

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        start = Sums(self.state[f"R.{layer}"], self.state[f"S.{layer}"]) if f"R.{layer}" in self.state else None
        if start is not None and queries.size(1) == 1:
            output, end = linear_attention_step(queries[:, 0], keys[:, 0], values[:, 0], start)
            output = output.unsqueeze(1)
        else:
            output, end = linear_attention(queries, keys, values, start)
        self.state[f"R.{layer}"], self.state[f"S.{layer}"] = end
        return output


def _check_settings(cfg: Any) -> None:
    """Checks the settings of a model.

    Raises:
        OptionError: a setting has a wrong value; all problems are named.
    """
    width, heads = cfg.decoder_embed_dim, cfg.decoder_attention_heads
    problems = []
    if width < 4 or width % 4 != 0:
        problems.append(
            f"--decoder-embed-dim must be a multiple of 4: half of it are pairs of sinusoids; it is {width}"
        )
    if heads < 1 or width % heads != 0:
        problems.append(f"--decoder-attention-heads must divide --decoder-embed-dim, {width}; it is {heads}")
    for name in ("decoder_layers", "decoder_ffn_embed_dim"):
        if getattr(cfg, name) < 1:
            problems.append(f"--{name.replace('_', '-')} must be at least 1; it is {getattr(cfg, name)}")
    if str(cfg.feature_map) not in FEATURE_MAPS:
        problems.append(f"--feature-map must be one of {', '.join(FEATURE_MAPS)}; it is {cfg.feature_map}")
    if cfg.num_features < 0:
        problems.append(f"--num-features must be at least 1, or 0 for the width of a head; it is {cfg.num_features}")
    if cfg.num_features > 0 and str(cfg.feature_map) != "favor+":
        problems.append(
            f"--num-features is for --feature-map favor+; with {cfg.feature_map} there are as many as a head is wide"
        )
    if cfg.redraw_features < 0:
        problems.append(f"--redraw-features must be at least 1, or 0 for never; it is {cfg.redraw_features}")
    if cfg.redraw_features > 0 and str(cfg.feature_map) != "favor+":
        problems.append(f"--redraw-features is for --feature-map favor+; {cfg.feature_map} draws none")
    if cfg.dropout != 0:
        problems.append(
            f"--dropout must be 0: a slice is run twice and must compute the same both times; it is {cfg.dropout}"
        )
    if problems:
        raise OptionError("slim_performer_lm can't be built:" + "".join(f"\n  - {problem}" for problem in problems))
