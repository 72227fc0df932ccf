"""``--task el_language_modeling``."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any

from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingConfig

from fairseq_el.errors import OptionError
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.tasks.el_task import ELTask
from fairseq_el.tasks.options import ELOptions
from fairseq_el.tasks.prompts import PromptedTask


@dataclass
class ELLanguageModelingConfig(ELOptions, LanguageModelingConfig):
    """The options of ``language_modeling`` and those of EL-attention."""

    el_plain_prompts: bool = field(
        default=False,
        metadata={
            "help": "feed prompts as they are, as transformers does, without the </s> that fairseq puts in front"
        },
    )
    el_min_new_tokens: int = field(
        default=0, metadata={"help": "tokens that must follow each prompt before the eos, whatever the prompt's length"}
    )
    el_max_new_tokens: int = field(
        default=0,
        metadata={
            "help": "tokens that may follow each prompt, the eos included, in place of --max-len-a and --max-len-b, "
            "which count the prompt (0: not limited)"
        },
    )


@register_task("el_language_modeling", dataclass=ELLanguageModelingConfig)
class ELLanguageModelingTask(ELTask, PromptedTask):
    """fairseq's ``language_modeling``; continuations read their prompt in one pass and keep it once for all beams."""

    takes_constraints = False
    continues_prompts = True

    def build_generator(self, models: Any, args: Any, *more: Any, **kwargs: Any) -> Any:
        """
        Raises:
            OptionError: limits of new tokens are out of range.
        """
        generator = super().build_generator(models, args, *more, **kwargs)
        at_least, at_most = (getattr(self.args, f"el_{end}_new_tokens", 0) for end in ("min", "max"))
        if at_least < 0 or at_most < 0 or 0 < at_most <= at_least:
            raise OptionError(
                "--el-max-new-tokens must be more than --el-min-new-tokens (the eos counts), and both at least 0; "
                f"they are {at_most} and {at_least}"
            )
        if isinstance(generator, ELSequenceGenerator) and (at_least or at_most):
            generator.min_new_tokens, generator.max_new_tokens = at_least or None, at_most or None
        return generator
