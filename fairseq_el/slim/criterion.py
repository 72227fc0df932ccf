"""The criterion ``slim_cross_entropy``: cross-entropy of a SLiM Performer, whole or slice by slice."""

# No postponed annotations here: fairseq reads the types of the fields.
from dataclasses import dataclass, field
from typing import Any, Dict, List, Tuple

import torch
from fairseq.criterions import register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion, CrossEntropyCriterionConfig
from torch import Tensor
from torch.nn import functional

from fairseq_el.errors import OptionError
from fairseq_el.ops import Attend, attend_within, sliced_loss
from fairseq_el.slim.decoder import SlimDecoder

try:
    from fairseq.logging import metrics
except ImportError:  # fairseq 0.12.2
    from fairseq import metrics


def slim_cross_entropy(
    decoder: SlimDecoder, tokens: Tensor, target: Tensor, slice_length: int = 0, count_right: bool = False
) -> Tuple[Tensor, Tensor]:
    """Sums the loss over all words of ``target`` that are not padding, in nats.

    Args:
        tokens: *Shape:* ``(B, L)``.
        target: the words to predict. *Shape:* ``(B, L)``.
        slice_length: ``C``: embeddings, activations and logits are in memory for so many positions at a time, in the
            backward pass too; 0 for all at once. Gradients are the same.
        count_right: also count the words that are predicted right.

    Returns:
        the loss, and how many words are right (0 if that is not counted).

    Raises:
        ValueError: there are no words.
    """
    if tokens.numel() == 0:
        raise ValueError(f"slim_cross_entropy needs at least one word; tokens have the shape {tuple(tokens.shape)}")
    length = slice_length or tokens.size(1)
    num_slices = -(-tokens.size(1) // length)
    right: List[Tensor] = []

    def run_slice(index: int, attend: Attend) -> Tensor:
        begin = index * length
        here = slice(begin, begin + length)
        logits = decoder.output_layer(decoder.features(tokens[:, here], begin, attend)).flatten(0, 1)
        words = target[:, here].flatten()
        if count_right and len(right) == index:  # and not again in the backward pass
            right.append(((logits.detach().argmax(dim=1) == words) & (words != decoder.padding_idx)).sum())
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(logits, words, ignore_index=decoder.padding_idx, reduction="sum")

    loss = run_slice(0, attend_within) if num_slices == 1 else sliced_loss(run_slice, num_slices)
    return loss, torch.stack(right).sum() if right else target.new_zeros(())


@dataclass
class SlimCrossEntropyCriterionConfig(CrossEntropyCriterionConfig):
    slice_length: int = field(
        default=0,
        metadata={
            "help": "C: train and validate in slices of this many words, with activations in memory for one of them "
            "(default: 0, the whole sample at once). Gradients do not depend on it; each slice is computed twice"
        },
    )
    report_accuracy: bool = field(default=False, metadata={"help": "log how many words are predicted right"})


@register_criterion("slim_cross_entropy", dataclass=SlimCrossEntropyCriterionConfig)
class SlimCrossEntropyCriterion(CrossEntropyCriterion):
    """fairseq's ``cross_entropy``, for samples whose activations, logits and embeddings do not fit in memory.

    The gradient is computed when fairseq calls ``backward`` on the loss, and goes to the parameters directly.
    """

    def __init__(self, task: Any, sentence_avg: bool, slice_length: int, report_accuracy: bool):
        super().__init__(task, sentence_avg)
        if slice_length < 0:
            raise OptionError(f"--slice-length must be at least 1, or 0 to train without slices; it is {slice_length}")
        self.slice_length = slice_length
        self.report_accuracy = report_accuracy

    def forward(self, model: Any, sample: Dict[str, Any], reduce: bool = True) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Computes the loss, the sample size and the numbers to log, as every criterion of fairseq's.

        Raises:
            OptionError: the model is not a SLiM Performer, or fairseq's settings would make slices wrong.
        """
        _check_model(model, self.slice_length)
        loss, num_correct = slim_cross_entropy(
            model.decoder, sample["net_input"]["src_tokens"], sample["target"], self.slice_length, self.report_accuracy
        )
        sample_size = sample["target"].size(0) if self.sentence_avg else sample["ntokens"]
        logged = {
            "loss": loss.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample_size,
        }
        if self.report_accuracy:
            logged["n_correct"] = num_correct
            logged["total"] = sample["target"].ne(self.padding_idx).sum()
        return loss, sample_size, logged

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Logs what ``cross_entropy`` logs, and the accuracy in percent if it was counted."""
        CrossEntropyCriterion.reduce_metrics(logging_outputs)
        total = sum(log.get("total", 0) for log in logging_outputs)
        if total > 0:
            num_correct = sum(log.get("n_correct", 0) for log in logging_outputs)
            metrics.log_scalar("accuracy", float(num_correct) * 100.0 / float(total), int(total), round=3)


def _check_model(model: Any, slice_length: int) -> None:
    if not isinstance(getattr(model, "decoder", None), SlimDecoder):
        raise OptionError(
            f"--criterion slim_cross_entropy is for --arch slim_performer_lm; the model is a {type(model).__name__}. "
            "Its attention can't be taken apart into slices: train it with --criterion cross_entropy."
        )
    if any(isinstance(module, torch.nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise OptionError(
            "--criterion slim_cross_entropy needs --ddp-backend legacy_ddp: torch's own DistributedDataParallel would "
            "send gradients away after the first slice"
        )
    if slice_length and torch.is_autocast_enabled():
        raise OptionError(
            "--slice-length can't be used with --amp: a slice is computed twice, the second time out "
            "of its reach, and must give the same both times; train in fp32, or without slices"
        )
