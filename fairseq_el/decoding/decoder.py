"""fairseq's Transformer decoder, running over a :class:`DecodeState`: prompts in one pass, then step by step."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from fairseq_el.decoding.decode_state import DecodeState
from fairseq_el.decoding.encoder import SharedEncoderOut
from fairseq_el.decoding.layers import has_active_dropout, is_plain_decoder_layer, run_decoder_layer


def can_share_past(decoder: Any) -> bool:
    """Returns whether a decoder with EL-attention enabled may keep one past for several beams.

    Not while dropout is active (``--retain-dropout``): every beam draws its own random numbers then, and stock's cache
    per beam is what gives the same results from the same seed.
    """
    return not has_active_dropout(decoder)


class Features(NamedTuple):
    """Results of a pass of the decoder, before the output projection."""

    features: Tensor  # (rows, t, d)
    attn: Optional[Tensor]  # encoder-decoder attention of one layer, mean over heads: (rows, t, n); or None
    inner_states: List[Tensor]  # the inputs and outputs of the layers, (t, rows, d), if asked for


def decode_prompts(
    decoder: Any,
    tokens: Tensor,
    encoder_out: Optional[SharedEncoderOut],
    incremental_state: Dict[str, Any],
    lengths: Optional[Tensor] = None,
    part: slice = slice(None),
    **options: Any,
) -> Features:
    """Reads the first words of some sentences in one pass, and keeps them once for all beams.

    Args:
        tokens: the prompts of these sentences, the decoder's first symbol included, padded at their ends.
            *Shape:* ``(B', t)``.
        lengths: of the prompts of all sentences of the batch (default: ``t``). *Shape:* ``(B)``.
        part: the sentences of ``tokens`` (default: all).
        options: of :func:`_extract_features`.
    """
    state = _state(incremental_state)
    state.begin_prompt(tokens.size(1), lengths, tokens.device, part)
    positions = embedded_positions(decoder, tokens.size(1), tokens.device)  # a prompt may hold padding
    return _extract_features(decoder, tokens, positions, encoder_out, part, incremental_state, **options)


def decode_step(
    decoder: Any,
    tokens: Tensor,
    encoder_out: Optional[SharedEncoderOut],
    incremental_state: Dict[str, Any],
    in_search: Optional[Tensor] = None,
    **options: Any,
) -> Features:
    """Reads one more word of every beam.

    Args:
        tokens: every beam's words so far; only the last is read. *Shape:* ``(B * b, t)``.
        in_search: as in :meth:`DecodeState.begin_step`. *Shape:* ``(B)``.
        options: of :func:`_extract_features`.
    """
    _state(incremental_state).begin_step(tokens.device, in_search)
    positions = None
    if decoder.embed_positions is not None:
        positions = decoder.embed_positions(tokens, incremental_state=incremental_state)[:, -1:]
    return _extract_features(decoder, tokens[:, -1:], positions, encoder_out, slice(None), incremental_state, **options)


def decode_in_place(
    decoder: Any,
    words: Tensor,
    positions: Optional[Tensor],
    encoder_out: Optional[SharedEncoderOut],
    state: DecodeState,
) -> Tensor:
    """Reads one more word of every beam, where the state has begun the step and the position is known on the device.

    Args:
        words: *Shape:* ``(B * b, 1)``.
        positions: the embedded position of these words. *Shape:* ``(1, 1, d)``.

    Returns:
        features, before the output projection. *Shape:* ``(B * b, 1, d)``.
    """
    incremental_state: Dict[str, Any] = {}
    state.put_into(incremental_state)
    return _extract_features(
        decoder, words, positions, encoder_out, slice(None), incremental_state, need_attn=False
    ).features


def embedded_positions(decoder: Any, length: int, device: torch.device) -> Optional[Tensor]:
    """Embeddings of the first positions, whatever the words; None if there are none. *Shape:* ``(1, length, d)``."""
    if decoder.embed_positions is None:
        return None
    any_word = 0 if decoder.padding_idx != 0 else 1
    positions: Tensor = decoder.embed_positions(torch.full((1, length), any_word, device=device))
    return positions


def _extract_features(
    decoder: Any,
    tokens: Tensor,
    positions: Optional[Tensor],
    encoder_out: Optional[SharedEncoderOut],
    part: slice,
    incremental_state: Dict[str, Any],
    need_attn: bool = True,
    need_inner_states: bool = False,
    alignment_layer: Optional[int] = None,
    alignment_heads: Optional[int] = None,
) -> Features:
    """fairseq's ``extract_features`` for given positions.

    Args:
        tokens: *Shape:* ``(rows, t)``.
        positions: embedded. *Shape:* ``(1 or rows, t, d)``.
        need_attn: return attention weights.
        need_inner_states: return inner states; otherwise each is freed when the next is there.
        alignment_layer, alignment_heads: the layer whose attention is returned (default: the last), and how many of its
            heads enter the mean (default: all).
    """
    memory = padding_mask = None
    if encoder_out is not None:
        memory = encoder_out["encoder_out"][0][:, part].transpose(0, 1)  # (n, B, d) -> (B', n, d)
        masks = encoder_out["encoder_padding_mask"]
        if masks:  # in steps the same object each time: what is made of it need not be made again
            padding_mask = masks[0] if part == slice(None) else masks[0][part]
    alignment_layer = decoder.num_layers - 1 if alignment_layer is None else alignment_layer
    state = _state(incremental_state)
    state.source.encoder_out = encoder_out

    x = _embed(decoder, tokens, positions)  # (rows, t, d)
    shape = x.shape
    if not state.current.in_prompt:
        x = x.view(state.num_sentences, -1, x.size(2))  # (B*b, 1, d) -> (B, b, d)
    inner_states = [x] if need_inner_states else []
    attn = None
    if not state.layer_functions:
        state.layer_functions = [
            run_decoder_layer if is_plain_decoder_layer(m) else _run_stock_layer for m in decoder.layers
        ]
    for index, (layer, run_layer) in enumerate(zip(decoder.layers, state.layer_functions)):
        aligned = need_attn and index == alignment_layer
        x, layer_attn = run_layer(layer, x, memory, padding_mask, state, aligned)
        if need_inner_states:
            inner_states.append(x)
        if aligned and layer_attn is not None:
            by_head = layer_attn.view(*shape[:2], *layer_attn.shape[2:])  # (B, queries, h, n) -> (rows, t, h, n)
            attn = by_head.float().to(x)[:, :, :alignment_heads].mean(dim=2)
    if decoder.layer_norm is not None:
        x = decoder.layer_norm(x)
    x = x.view(shape)
    if decoder.project_out_dim is not None:
        x = decoder.project_out_dim(x)
    return Features(x, attn, [inner.view(shape).transpose(0, 1) for inner in inner_states])


def _run_stock_layer(
    layer: Any,
    x: Tensor,
    memory: Optional[Tensor],
    padding_mask: Optional[Tensor],
    state: DecodeState,
    need_attn: bool,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Does what :func:`run_decoder_layer` does by the layer's own ``forward``."""
    incremental_state: Dict[str, Any] = {}
    state.put_into(incremental_state)
    shape = x.shape
    rows = x if state.current.in_prompt else x.reshape(-1, 1, shape[2])  # (B, queries, d) -> (rows, t, d)
    y, attn, _ = layer(
        rows.transpose(0, 1),
        None if memory is None else memory.transpose(0, 1),
        padding_mask,
        incremental_state,
        need_attn=need_attn,
        need_head_weights=need_attn,
    )
    y = y.transpose(0, 1).reshape(shape)
    if not need_attn or attn is None:  # without need_attn a layer may still return a mean over heads
        return y, None
    attn = attn.permute(1, 2, 0, 3)  # (h, rows, t, n) -> (rows, t, h, n)
    return y, attn.reshape(*shape[:2], *attn.shape[2:])


def _embed(decoder: Any, tokens: Tensor, positions: Optional[Tensor]) -> Tensor:
    x = decoder.embed_scale * decoder.embed_tokens(tokens.contiguous())
    if decoder.quant_noise is not None:
        x = decoder.quant_noise(x)
    if decoder.project_in_dim is not None:
        x = decoder.project_in_dim(x)
    if positions is not None:
        x = x + positions
    if decoder.layernorm_embedding is not None:
        x = decoder.layernorm_embedding(x)
    embedded: Tensor = decoder.dropout_module(x)
    return embedded


def _state(incremental_state: Dict[str, Any]) -> DecodeState:
    state = DecodeState.of(incremental_state)
    assert state is not None, "put a DecodeState into the incremental state first"
    return state


def shared_forward(
    decoder: Any,
    prev_output_tokens: Tensor,
    encoder_out: Any = None,
    incremental_state: Any = None,
    features_only: bool = False,
    **options: Any,
) -> Any:
    """Stands in for ``decoder.forward`` while EL-attention is enabled: as stock, over a state that beams share.

    This is how generators that know nothing of EL-attention decode. Without a shared encoder output there is no telling
    which rows are beams of one sentence, and everything is stock.
    """
    state = DecodeState.of(incremental_state) or _begin(decoder, encoder_out, incremental_state)
    if state is None:
        return type(decoder).forward(
            decoder, prev_output_tokens, encoder_out, incremental_state, features_only, **options
        )
    options = {name: options.get(name) for name in ("alignment_layer", "alignment_heads")}
    options["need_inner_states"] = True
    if state.tree.num_nodes == 0 and _same_for_all_beams(prev_output_tokens, state.beam_size):
        prompts = prev_output_tokens[:: state.beam_size]
        first = decode_prompts(decoder, prompts, encoder_out, incremental_state, **options)
        output = Features(
            first.features.repeat_interleave(state.beam_size, dim=0),
            None if first.attn is None else first.attn.repeat_interleave(state.beam_size, dim=0),
            [x.repeat_interleave(state.beam_size, dim=1) for x in first.inner_states],
        )
    else:
        output = decode_step(decoder, prev_output_tokens, encoder_out, incremental_state, **options)
    x = output.features if features_only else decoder.output_layer(output.features)
    return x, {"attn": [output.attn], "inner_states": output.inner_states}


def _begin(decoder: Any, encoder_out: Any, incremental_state: Any) -> Optional[DecodeState]:
    """A state in ``incremental_state``, if the rows of the batch are known to be beams and may share it."""
    if incremental_state is None or not isinstance(encoder_out, SharedEncoderOut) or not can_share_past(decoder):
        return None
    num_sentences = encoder_out["encoder_out"][0].size(1)
    return DecodeState(num_sentences, encoder_out.beam_size).put_into(incremental_state)


def _same_for_all_beams(tokens: Tensor, beam_size: int) -> bool:
    """Returns whether this is the first step and beams do not differ yet. Waits for the device, once per batch."""
    first = tokens[::beam_size].repeat_interleave(beam_size, dim=0)
    return tokens.size(1) == 1 and torch.equal(first, tokens)


def reorder_shared_state(decoder: Any, incremental_state: Any, new_order: Tensor) -> None:
    """Stands in for ``decoder.reorder_incremental_state`` while EL-attention is enabled."""
    state = DecodeState.of(incremental_state)
    if state is not None:
        state.reorder(new_order)
    else:
        type(decoder).reorder_incremental_state(decoder, incremental_state, new_order)
