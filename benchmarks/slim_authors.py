"""The SLiM Performer's authors' own program, from the user's checkout of google-research.

Only two files of ``performer/models/slim_performer/pytorch`` are read. They import each other by a name that is not
where they are, and wait for a card wherever they run.
"""

from __future__ import annotations

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator
from unittest import mock

import torch
from torch import Tensor

from fairseq_el.errors import OptionError
from fairseq_el.slim import SlimDecoder

_FILES = ("numerator_and_denominator", "slim_performer_model")
_WHERE = "performer/models/slim_performer/pytorch"
_PACKAGE = "performer.models.pytorch.slim_performer"  # as the authors' files import each other


class AuthorsModel:
    """The authors' model with the weights of ours; the same loss, and gradients by the same names as ours."""

    def __init__(self, directory: Path, decoder: SlimDecoder, compute_type: str):
        layer: Any = decoder.layers[0]
        width = layer.q_proj.in_features
        self.model = load_authors(directory).SLiMPerformer(
            decoder.embed_tokens.num_embeddings,
            width,
            len(decoder.layers),
            layer.fc1.out_features,
            layer.num_heads,
            layer.feature_map,
            compute_type,
            not layer.normalize_before,
        )
        self.model.load_state_dict({_their_name(name): value for name, value in decoder.state_dict().items()})
        self.model.to(decoder.embed_tokens.weight.device)

    def backward(self, tokens: Tensor, slice_length: int) -> Tensor:
        """Adds the gradients of the summed loss, and returns the loss. ``tokens``: ``(1, L + 1)``."""
        length = tokens.size(1) - 1
        with _no_card_needed(tokens.device.type):
            if slice_length == 0:
                loss = self.model.full_loss(tokens, with_grad=True)
            else:
                loss = self.model.loss_with_grad(tokens, slice_length)
        return loss.detach() * length

    def gradients(self, length: int) -> Dict[str, Tensor]:
        """Gradients of the summed loss; theirs is a mean over ``length`` words."""
        ours = {_their_name(name): name for name in _our_names(self.model)}
        return {
            ours[name]: parameter.grad * length
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }

    def forget_gradients(self) -> None:
        self.model.zero_grad(set_to_none=False)


_NAMES = {
    "embed_tokens.": "input_map.",
    "output_projection.": "output_logit_map.",
    "q_proj.": "attention.q_map.",
    "k_proj.": "attention.k_map.",
    "v_proj.": "attention.v_map.",
    "self_attn_layer_norm.": "layernorm1.",
    "final_layer_norm.": "layernorm2.",
    "fc1.": "U_map.",
    "fc2.": "V_map.",
}


def _their_name(name: str) -> str:
    for ours, theirs in _NAMES.items():
        if ours in name:
            return name.replace(ours, theirs)
    raise KeyError(name)


def _our_names(model: Any) -> Iterator[str]:
    for name, _ in model.named_parameters():
        for ours, theirs in _NAMES.items():
            if theirs in name:
                yield name.replace(theirs, ours)


def load_authors(directory: Path) -> ModuleType:
    """
    Raises:
        OptionError: the files are not there.
    """
    places = [directory / _WHERE, directory]
    place = next((p for p in places if all((p / f"{name}.py").is_file() for name in _FILES)), None)
    if place is None:
        raise OptionError(
            f"--authors must be a checkout of https://github.com/google-research/google-research, with {_WHERE}/"
            f"{{{','.join(_FILES)}}}.py in it; {directory} has none"
        )
    parts = _PACKAGE.split(".")
    added = {".".join(parts[: i + 1]): ModuleType(parts[i]) for i in range(len(parts))}
    with mock.patch.dict(sys.modules, added):
        for name in _FILES:
            spec = importlib.util.spec_from_file_location(f"{_PACKAGE}.{name}", place / f"{name}.py")
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[f"{_PACKAGE}.{name}"] = module
            setattr(added[_PACKAGE], name, module)
            for i in range(1, len(parts)):
                setattr(added[".".join(parts[:i])], parts[i], added[".".join(parts[: i + 1])])
            spec.loader.exec_module(module)
    return module


@contextmanager
def _no_card_needed(device: str) -> Iterator[None]:
    """On a CPU, without their waiting for a card and emptying its cache."""
    if device == "cuda":
        yield
        return
    with mock.patch.multiple(torch.cuda, synchronize=lambda: None, empty_cache=lambda: None):
        yield
