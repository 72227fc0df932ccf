"""Base of language modeling tasks that cut or draw samples of one length themselves, without preprocessing."""

from typing import Any, List, Optional

from fairseq_el.errors import OptionError
from fairseq_el.tasks import ELLanguageModelingTask


class FixedLengthTask(ELLanguageModelingTask):
    """Base of tasks whose samples have ``--tokens-per-sample`` words each, except the last."""

    keeps_last_training_batch = True

    def eval_lm_dataloader(
        self, dataset: Any, *args: Any, max_positions: Optional[int] = None, context_window: int = 0, **kwargs: Any
    ) -> Any:
        """Iterates over a dataset as ``fairseq-eval-lm`` wants it.

        Raises:
            OptionError: samples are longer than the model reads. fairseq would leave them out, and report a loss of 0.
        """
        length = self.args.tokens_per_sample + context_window
        if max_positions is not None and length > max_positions:
            raise OptionError(
                f"--tokens-per-sample must be at most what the model reads, {max_positions}; it is {length}. Give the "
                f"model's own, --tokens-per-sample {max_positions}"
            )
        return super().eval_lm_dataloader(
            dataset, *args, max_positions=max_positions, context_window=context_window, **kwargs
        )

    def inference_step(
        self, generator: Any, models: Any, sample: Any, prefix_tokens: Any = None, constraints: Any = None
    ) -> Any:
        """Decodes a batch.

        Raises:
            OptionError: fairseq-generate has no prompt. Without one it would take whole samples, and have no room left.
        """
        if prefix_tokens is None and sample.get("target") is not None:  # fairseq-interactive's samples have none
            raise OptionError(
                "fairseq-generate needs --prefix-size N: how many words of every sample are the prompt; there is none"
            )
        return super().inference_step(generator, models, sample, prefix_tokens=prefix_tokens, constraints=constraints)


def length_problems(length: int) -> List[str]:
    """The problem with a ``--tokens-per-sample`` below 1; empty for any other."""
    if length >= 1:
        return []
    return [
        "--tokens-per-sample must be at least 1, and more than a --context-window, which fairseq-eval-lm takes off it; "
        f"what is left is {length}"
    ]
