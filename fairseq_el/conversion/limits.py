"""Checks settings before a model is built from them: absurd sizes would take hours, or all memory."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

from torch import Tensor

from fairseq_el.errors import shortened

# The largest sizes that are accepted: many times those of the largest published models.
LAYERS, HEADS, WIDTH, HIDDEN, POSITIONS, WORDS = 1000, 10_000, 1_000_000, 10_000_000, 1_000_000, 10_000_000
_SIDES = ("encoder", "decoder")
_SIZES = {
    **{f"{side}_attention_heads": HEADS for side in _SIDES},
    **{f"{side}_embed_dim": WIDTH for side in _SIDES},
    **{f"{side}_ffn_embed_dim": HIDDEN for side in _SIDES},
    **dict.fromkeys(("decoder_input_dim", "decoder_output_dim"), WIDTH),
    **dict.fromkeys(("max_source_positions", "max_target_positions", "tokens_per_sample"), POSITIONS),
}
_SHARES = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "relu_dropout",
    "encoder_layerdrop",
    "decoder_layerdrop",
)
_SWITCHES = (
    *(f"{side}_{name}" for side in _SIDES for name in ("normalize_before", "learned_pos")),
    *("share_all_embeddings", "share_decoder_input_output_embed", "layernorm_embedding", "no_scale_embedding"),
    *("no_token_positional_embeddings", "add_bos_token", "output_bias"),
)


def size_problem(name: str, value: Any, most: int, least: int = 1) -> Optional[str]:
    """Says what is wrong with a size; None if a model may have it."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        rule = "a number above 0" if least == 1 else f"a number from {least} on"
        return f"{name} must be {rule}; it is {shown(value)}"
    return f"{name} must be at most {most:,}; it is {shown(value)}" if value > most else None


def is_share(value: Any) -> bool:
    """Returns whether a value is from 0 to 1 (None: not set)."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1)


def is_number(value: Any) -> bool:
    """Returns whether a value is a number that an option can have: not infinite, NaN, or of hundreds of digits."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**31


def shown(value: Any) -> str:
    """Writes a value of any type and size for a message."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    return shortened(repr(value))


def listed(problems: Sequence[str], most: int = 8, separator: str = "; ") -> str:
    """Joins the first problems for a message, with ``...`` in the place of others."""
    return separator.join([*problems[:most], *(["..."] if len(problems) > most else [])])


def setting_problems(settings: Dict[str, Any]) -> List[str]:
    """Lists what is wrong with the settings of a fairseq model that say how large it is and how it is built."""
    given = {name: value for name, value in settings.items() if value is not None}
    found = [size_problem(name, given[name], most) for name, most in _SIZES.items() if name in given]
    found += [size_problem(f"{s}_layers", given[f"{s}_layers"], LAYERS, 0) for s in _SIDES if f"{s}_layers" in given]
    rules = [(name, "from 0 to 1", is_share) for name in _SHARES]
    rules += [(name, "true or false", lambda value: value in (True, False)) for name in _SWITCHES]
    rules += [("activation_fn", "a text", lambda value: isinstance(value, str))]
    found += [
        f"{name} must be {rule}; it is {shown(given[name])}"
        for name, rule, holds in rules
        if name in given and not holds(given[name])
    ]
    return [problem for problem in found if problem is not None]


def differences_from_weights(settings: Any, weights: Dict[str, Tensor]) -> List[str]:
    """Lists the sizes of a Transformer in which its settings and its weights differ.

    Args:
        settings: a namespace of flat settings.
        weights: of any model. Sizes whose weights it does not have are not compared.
    """
    found = {}
    for side in _SIDES:
        layers = {name.split(".")[2] for name in weights if name.startswith(f"{side}.layers.")}
        if layers:
            found[f"{side}_layers"] = len(layers)
        sizes = ((f"{side}.embed_tokens.weight", 1, "embed_dim"), (f"{side}.layers.0.fc1.weight", 0, "ffn_embed_dim"))
        for name, dimension, setting in sizes:
            if name in weights and weights[name].dim() == 2:
                found[f"{side}_{setting}"] = weights[name].size(dimension)
    return [
        f"{name} is {getattr(settings, name)}, and its weights have {size:,}"
        for name, size in found.items()
        if getattr(settings, name, None) not in (None, size)
    ]
