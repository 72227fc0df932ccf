"""fairseq's attention modules, decoding over what the beams of a sentence share.

While EL-attention is enabled, the decoder's attention modules have one of three classes:

- :class:`ELCrossAttention`, encoder-decoder attention over the encoder's output;
- :class:`ELSelfAttention`, self-attention over the inputs of the layer;
- :class:`KVSelfAttention`, self-attention over keys and values.

They have the parameters of fairseq's :class:`~fairseq.modules.MultiheadAttention` and nothing beside them. Weights are
read from the modules at every step, so no copy of them can be out of date.

Symbols: ``B`` sentences, ``b`` beams, ``h`` heads, ``d`` width, ``dh`` width of a head, ``n`` length of the source,
``U`` nodes of the beams' past. The queries of a sentence are its beams in a step, and its words in a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple, Type

import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor

from fairseq_el.decoding.decode_state import DecodeState
from fairseq_el.decoding.layers import drops_out
from fairseq_el.decoding.linears import JoinedLinears, Linears
from fairseq_el.ops import MOST_QUERIES, el_attention, kv_attention
from fairseq_el.policy import PROJECTED_AT_ONCE, sentences_at_once


@dataclass(frozen=True)
class ScoreLimit:
    """The number of scores of a query that enter its softmax, the largest ones.

    Attributes:
        k: the number of scores.
        query_chunk: how many queries are scored at a time, where keys are kept.
    """

    k: int
    query_chunk: int = MOST_QUERIES


class SharedAttention(MultiheadAttention):
    """Base of the modules that decode over a memory that beams share.

    Attributes:
        replaced_class: the class that the module had before. It computes training, scoring, and what generators decode
            that share nothing.
        score_limit: set on a module whose queries attend to few positions (default: they attend to all).
    """

    replaced_class: Type[MultiheadAttention] = MultiheadAttention
    score_limit: Optional[ScoreLimit] = None

    def _by_head(self, x: Tensor) -> Tensor:
        """Splits by head, ``(B, queries, h * dh)`` to ``(B, queries, h, dh)``."""
        return x.view(*x.shape[:2], self.num_heads, self.head_dim)

    def _over_memory(self, query: Tensor, memory: Tensor, **options: Any) -> Tuple[Tensor, Optional[Tensor]]:
        """EL-attention.

        Args:
            query: projected, not scaled. *Shape:* ``(B, queries, h, dh)``.
            memory: *Shape:* ``(B, n, d)``.
            options: masks, dropout and ``need_weights``, as of :func:`el_attention`.

        Returns:
            the heads' outputs ``(B, queries, h, dh)``, and the weights ``(B, queries, h, n)`` or None.
        """
        limit = self._limit_for(memory.size(1))
        if limit is None:
            options["softmax_dtype"] = torch.float32  # as stock, for every dtype
        else:
            options["k"] = limit.k
        weights = (self.k_proj.weight, self.v_proj.weight, self.k_proj.bias, self.v_proj.bias)
        return el_attention(query * self.scaling, memory, *weights, **options)

    def _over_keys_values(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        hidden: Optional[Tensor],
        state: DecodeState,
        causal: bool = False,
    ) -> Tensor:
        """Attention over keys and values.

        Args:
            query: projected, not scaled. *Shape:* ``(B, queries, h, dh)``.
            key, value: *Shape:* ``(B, h, n, dh)``.
            hidden: True where a position is hidden from all queries, ``(B, n)``, or from one, ``(B, queries, n)``. The
                same object in all layers of a pass, which share the mask that the state makes of it.
            causal: query ``i`` sees the first ``i + 1`` keys; only where there is a limit.

        Returns:
            the heads' outputs. *Shape:* ``(B, queries, h, dh)``.
        """
        mask = state.current.attn_mask(hidden, query.dtype)
        if mask is not None and mask.dim() == 2:
            mask = mask.unsqueeze(1)  # (B, n) -> (B, 1, n)
        limit = self._limit_for(key.size(2))
        options: Dict[str, Any] = {"softmax_dtype": torch.float32}  # as stock, for every dtype
        if limit is not None:
            options = {"k": limit.k, "query_chunk": limit.query_chunk, "causal": causal}
        return kv_attention(query, key, value, mask, scale=self.scaling, **options)

    def _limit_for(self, num_keys: int) -> Optional[ScoreLimit]:
        """The limit, where it leaves out any of so many scores."""
        limit = self.score_limit
        return None if limit is None or num_keys <= limit.k else limit


class ELCrossAttention(SharedAttention):
    """Encoder-decoder attention over an encoder output that beams share.

    While decoding it runs :func:`el_attention` and keeps nothing. Where the :class:`DecodeState` of the batch says
    ``"shared-kv"``, it runs :func:`kv_attention` over keys and values that this state keeps once per sentence.
    """

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Optional[Tensor] = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Attends as stock, to an encoder output that is not expanded to beams.

        Args:
            query: ``b`` beams of ``B`` sentences, beams of a sentence side by side. *Shape:* ``(t, B * b, d_model)``.
            key: the encoder's output, ``B`` sentences. *Shape:* ``(n, B, d)``.
            value: the same tensor as ``key``.
            key_padding_mask: True at padding. *Shape:* ``(B, n)``.
            incremental_state: given while decoding.
            need_weights, need_head_weights: return the weights, averaged over heads or for each head.

        Returns:
            the output, ``(t, B * b, d_model)``, and the weights: None, ``(B * b, t, n)``, or ``(h, B * b, t, n)``.

        Raises:
            ValueError: the number of queries is not a multiple of the number of sentences; or an argument is given that
                decoding does not have.
        """
        if incremental_state is None and (key is None or key.size(1) == query.size(1)):
            result: Tuple[Tensor, Optional[Tensor]] = self.replaced_class.forward(
                self,
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                static_kv=static_kv,
                attn_mask=attn_mask,
                before_softmax=before_softmax,
                need_head_weights=need_head_weights,
            )
            return result
        if key is None or attn_mask is not None or before_softmax:
            raise ValueError(
                "EL-attention decodes from the encoder's output: key must be given, attn_mask and before_softmax not; "
                f"got key {'missing' if key is None else 'given'}, attn_mask "
                f"{'missing' if attn_mask is None else 'given'}, before_softmax={before_softmax}"
            )
        tgt_len, num_rows, width = query.shape
        src_len, num_sentences, _ = key.shape
        if num_rows % num_sentences != 0:
            raise ValueError(
                f"EL-attention needs the same number of beams for every sentence, but there are {num_rows} queries for "
                f"{num_sentences} encoder outputs. Pass the encoder's output once per sentence, beams side by side."
            )
        x = query.transpose(0, 1).reshape(num_sentences, -1, width)  # (t, B*b, d) -> (B, b*t, d)
        state = DecodeState.of(incremental_state)
        output, weights = self.attend(
            x, key.transpose(0, 1), key_padding_mask, state, need_weights=need_weights or need_head_weights
        )
        output = output.reshape(num_rows, tgt_len, -1).transpose(0, 1)  # (B, b*t, d) -> (t, B*b, d)
        if weights is None:
            return output, None
        weights = weights.view(num_rows, tgt_len, self.num_heads, src_len).permute(2, 0, 1, 3)
        return output, weights if need_head_weights else weights.mean(dim=0)

    def attend(
        self,
        x: Tensor,
        memory: Tensor,
        key_padding_mask: Optional[Tensor],
        state: Optional[DecodeState],
        need_weights: bool,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Attends with queries that share an encoder output: the beams of a step, or the words of a prompt.

        Args:
            x: *Shape:* ``(B, queries, d_model)``.
            memory: the encoder's output. *Shape:* ``(B, n, d)``.
            key_padding_mask: True at padding. *Shape:* ``(B, n)``.
            state: of the batch, if its past is shared.

        Returns:
            the output, ``(B, queries, d_model)``, and the weights ``(B, queries, h, n)`` or None.
        """
        query = self._by_head(self.q_proj(x) if state is None else state.linears(self.q_proj, x))
        padding = None if key_padding_mask is None else key_padding_mask.to(torch.bool)
        weights = None
        if state is not None and state.backend == "shared-kv" and not need_weights:
            key, value = state.source_keys_values(
                self._incremental_state_id, lambda: self._project(memory, state.linears)
            )
            heads = self._over_keys_values(query, key, value, padding, state)
        else:
            dropout = self.dropout_module if drops_out(self.dropout_module) else None
            heads, weights = self._over_memory(
                query, memory, key_padding_mask=padding, dropout=dropout, need_weights=need_weights
            )
        heads = heads.reshape(*x.shape[:2], -1)  # (B, queries, h, dh) -> (B, queries, h*dh)
        return (self.out_proj(heads) if state is None else state.linears(self.out_proj, heads)), weights

    def _project(self, memory: Tensor, linears: Linears) -> Tuple[Tensor, Tensor]:
        """Projects a memory ``(B, n, d)`` to keys and values ``(B, h, n, dh)``, each head's contiguous."""
        num_sentences, src_len, _ = memory.shape
        shape = (num_sentences, self.num_heads, src_len, self.head_dim)
        key, value = memory.new_empty(shape), memory.new_empty(shape)
        part_size = sentences_at_once(PROJECTED_AT_ONCE, src_len)
        for begin in range(0, num_sentences, part_size):
            part = slice(begin, begin + part_size)
            for module, heads in ((self.k_proj, key), (self.v_proj, value)):
                heads[part] = self._by_head(linears.once(module, memory[part])).transpose(1, 2)  # to (B', h, n, dh)
        return key, value

    def set_beam_size(self, beam_size: int) -> None:
        """Does nothing: the beam size is read from each batch."""


class SharedSelfAttention(SharedAttention):
    """Base of decoder self-attention over the nodes of a :class:`DecodeState`. Subclasses say what a node is."""

    def forward(
        self,
        query: Tensor,
        key: Optional[Tensor],
        value: Optional[Tensor],
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict[str, Any]] = None,
        *more: Any,
        **options: Any,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Attends as stock; with a decode state, to the past of a step's beams or a prompt's words.

        Args:
            query: in a step, one word of ``b`` beams of ``B`` sentences, beams of a sentence side by side; in a prompt,
                the words of ``B`` sentences. *Shape:* ``(1, B * b, d)`` or ``(t, B, d)``.

        Returns:
            the output, shaped as ``query``, and None: fairseq's decoder layers ask for no weights.
        """
        state = DecodeState.of(incremental_state)
        if state is None:
            result: Tuple[Tensor, Optional[Tensor]] = self.replaced_class.forward(
                self, query, key, value, key_padding_mask, incremental_state, *more, **options
            )
            return result
        tgt_len, num_rows, width = query.shape
        num_sentences = num_rows if state.current.in_prompt else state.num_sentences
        x = query.transpose(0, 1).reshape(num_sentences, -1, width)  # (t, rows, d) -> (B, queries, d)
        output = self.attend(x, state)
        return output.reshape(num_rows, tgt_len, width).transpose(0, 1), None  # (B, queries, d) -> (t, rows, d)

    def attend(self, x: Tensor, state: DecodeState) -> Tensor:
        """Attends with the beams of a step or the words of a prompt. *Shape:* ``(B, queries, d)`` to the same."""
        heads = self._heads(x, state)
        return state.linears(self.out_proj, heads.reshape(x.shape))  # (B, queries, h, dh) -> (B, queries, h*dh)

    def _over_nodes(self, query: Tensor, key: Tensor, value: Tensor, state: DecodeState) -> Tensor:
        """Attends to keys and values of the nodes; see :meth:`_over_keys_values`."""
        current = state.current
        if not current.in_prompt:
            return self._over_keys_values(query, key, value, current.hidden, state)
        causal = self._limit_for(key.size(2)) is not None  # then no mask as large as all scores is needed
        return self._over_keys_values(query, key, value, None if causal else current.future, state, causal)

    def _heads(self, x: Tensor, state: DecodeState) -> Tensor:
        """Adds the nodes of ``x`` ``(B, queries, d)`` to the state, and gives the heads' ``(B, queries, h, dh)``."""
        raise NotImplementedError

    def reorder_incremental_state(self, incremental_state: Any, new_order: Tensor) -> Any:
        """Reorders as stock. A decode state is left to the decoder, which reorders it once for all layers."""
        if DecodeState.of(incremental_state) is not None:
            return incremental_state
        return super().reorder_incremental_state(incremental_state, new_order)


class ELSelfAttention(SharedSelfAttention):
    """Self-attention whose nodes are the layer's inputs: EL-attention, with half the numbers of keys and values."""

    def _heads(self, x: Tensor, state: DecodeState) -> Tensor:
        (nodes,) = state.store(self._incremental_state_id, x.unsqueeze(1))
        query = self._by_head(state.linears(self.q_proj, x))
        if state.current.in_prompt:  # x is the whole past: keys and values of it are less work
            projected = (state.linears.once(module, x) for module in (self.k_proj, self.v_proj))
            key, value = (self._by_head(heads).transpose(1, 2) for heads in projected)
            return self._over_nodes(query, key, value, state)
        memory = nodes.squeeze(1)  # (B, 1, U, d) -> (B, U, d)
        return self._over_memory(query, memory, attn_mask=state.current.hidden, need_weights=False)[0]


class KVSelfAttention(SharedSelfAttention):
    """Self-attention whose nodes are keys and values: multi-head attention, with less arithmetic."""

    def _heads(self, x: Tensor, state: DecodeState) -> Tensor:
        modules = (self.q_proj, self.k_proj, self.v_proj)
        if isinstance(state.linears, JoinedLinears):
            joined = state.linears.one_product(modules, x)  # (B, queries, 3*d)
            joined = joined.view(*x.shape[:2], 3 * self.num_heads, self.head_dim).transpose(1, 2)
            query, nodes = joined.split([self.num_heads, 2 * self.num_heads], dim=1)
            (pairs,) = state.store(self._incremental_state_id, nodes)  # (B, 2*h, U, dh): keys, then values
            key, value = pairs.chunk(2, dim=1)
            return self._over_nodes(query.transpose(1, 2), key, value, state)
        query, key, value = map(self._by_head, state.linears.project_together(modules, x))
        key, value = state.store(self._incremental_state_id, key.transpose(1, 2), value.transpose(1, 2))
        return self._over_nodes(query, key, value, state)


SELF_ATTENTION = {"el": ELSelfAttention, "kv": KVSelfAttention}


def class_without_el(attention: MultiheadAttention) -> Type[MultiheadAttention]:
    """Returns the class that an attention module has, or had before EL-attention was enabled."""
    return attention.replaced_class if isinstance(attention, SharedAttention) else type(attention)


def set_class_without_el(attention: MultiheadAttention, new_class: Type[MultiheadAttention]) -> None:
    """Changes what an attention module computes while it does not decode with EL-attention.

    Args:
        new_class: its ``forward`` may be called for a module of an EL class, so it must not need more of the module
            than :class:`~fairseq.modules.MultiheadAttention` has.
    """
    if isinstance(attention, SharedAttention):
        attention.__dict__["replaced_class"] = new_class
    else:
        attention.__class__ = new_class
