"""fairseq's encoders of speech, which run as they are: how long their output is, and parts of a batch of features.

A source is features ``(B, n, f)``, ``n`` frames of ``f`` numbers, with zeros at the ends of shorter ones. Convolutions
make it shorter.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple, Type

import torch
from fairseq.models.speech_to_text import ConvTransformerModel, S2TTransformerModel
from fairseq.models.speech_to_text.convtransformer import ConvTransformerEncoder, TransformerDecoderNoExtra
from fairseq.models.speech_to_text.s2t_conformer import S2TConformerEncoder
from fairseq.models.speech_to_text.s2t_transformer import S2TTransformerEncoder, TransformerDecoderScriptable
from torch import Tensor, nn

SPEECH_MODELS: Tuple[Type[Any], ...] = (S2TTransformerModel, ConvTransformerModel)
SPEECH_ENCODERS: Tuple[Type[Any], ...] = (S2TTransformerEncoder, S2TConformerEncoder, ConvTransformerEncoder)
SPEECH_DECODERS: Tuple[Type[Any], ...] = (TransformerDecoderScriptable, TransformerDecoderNoExtra)


def is_speech_encoder(encoder: Any) -> bool:
    """Returns whether an encoder reads features, and gives what fairseq's Transformer encoder gives."""
    return isinstance(encoder, SPEECH_ENCODERS)


def is_features(source: Tensor) -> bool:
    """Returns whether a source is features or samples of sound, not words."""
    return source.is_floating_point()


def encoded_length(encoder: Any, length: int) -> int:
    """Positions of the encoder's output for a source of ``length`` positions."""
    if not is_speech_encoder(encoder):
        return length
    subsampler = encoder.conv if isinstance(encoder, ConvTransformerEncoder) else encoder.subsample
    for module in subsampler.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            length = (length + 2 * int(module.padding[0]) - module.kernel_size[0]) // module.stride[0] + 1
    return length


def run_encoder(encoder: Any, net_input: Dict[str, Any]) -> Any:
    """Runs ``encoder.forward_torchscript``, also for a part of a batch of features that has not its longest source.

    Sources keep the padding of the whole batch: it has a part in what convolutions give for their last frames.
    fairseq's encoders fail where no source fills the batch, so a silent one is added that does, and taken away again.

    Returns:
        what the encoder gives: ``encoder_out`` ``(n', B, d)``, ``encoder_padding_mask`` ``(B, n')``, if anything is
        padded.
    """
    if not is_speech_encoder(encoder):
        return encoder.forward_torchscript(net_input)
    source, lengths = net_input["src_tokens"], net_input["src_lengths"]
    num_sources, width = source.shape[:2]
    if num_sources == 0 or int(lengths.max()) >= width:
        return encoder.forward_torchscript(net_input)
    filled = {
        **net_input,
        "src_tokens": torch.cat([source, torch.zeros_like(source[:1])]),
        "src_lengths": torch.cat([lengths, lengths.new_full((1,), width)]),
    }
    out = encoder.forward_torchscript(filled)
    masks: List[Tensor] = out["encoder_padding_mask"]
    return {
        **out,
        "encoder_out": [encoded[:, :num_sources] for encoded in out["encoder_out"]],
        "encoder_padding_mask": [mask[:num_sources] for mask in masks],
        "encoder_states": [],
    }
