"""The options that ``el_*`` tasks have beside those of their stock task."""

# No postponed annotations here: fairseq reads the types of the fields.
from argparse import ArgumentParser
from dataclasses import dataclass, field, fields
from typing import Any

from fairseq.dataclass import ChoiceEnum

from fairseq_el.errors import OptionError
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS
from fairseq_el.modules import DEFAULT_SELF_ATTENTION

SelfAttention = ChoiceEnum(["el", "kv"])


@dataclass
class ELOptions:
    """Put it before the configuration of a task: ``class MyConfig(ELOptions, TranslationConfig)``."""

    el_self_attention: SelfAttention = field(  # type: ignore[valid-type]
        default=DEFAULT_SELF_ATTENTION,
        metadata={
            "help": "what decoder self-attention keeps of each word: el its hidden state, kv its key and value, which "
            "is twice as much and less to compute"
        },
    )
    el_encoder_tokens: int = field(
        default=DEFAULT_ENCODER_TOKENS,
        metadata={
            "help": "run the encoder, prompts and the output projection over parts of a batch, with at most this many "
            "positions at a time; results do not depend on it"
        },
    )


def add_el_options(parser: ArgumentParser) -> None:
    """The same for tasks that have ``add_args`` instead of a dataclass."""
    for option in fields(ELOptions):
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            default=option.default,
            type=type(option.default),
            choices=["el", "kv"] if option.name == "el_self_attention" else None,
            help=option.metadata["help"],
        )


def el_options(cfg: Any) -> ELOptions:
    """The options in a task's configuration, or their defaults.

    Raises:
        OptionError: a value is out of range.
    """
    options = ELOptions()
    for option in fields(ELOptions):
        setattr(options, option.name, getattr(cfg, option.name, option.default))
    if options.el_encoder_tokens < 1:
        raise OptionError(
            f"--el-encoder-tokens must be at least 1; it is {options.el_encoder_tokens}. It is how many positions the "
            f"encoder has in flight at a time; the default is {DEFAULT_ENCODER_TOKENS}."
        )
    return options
