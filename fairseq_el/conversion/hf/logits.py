"""Compares the logits of both programs, from two directories."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import torch
from torch import Tensor

from fairseq_el.conversion.building import build
from fairseq_el.conversion.checkpoint import load_checkpoint
from fairseq_el.conversion.hf.families import Family
from fairseq_el.conversion.hf.hf_directory import HFDirectory
from fairseq_el.conversion.hf.model_config import read_config
from fairseq_el.conversion.hf.tokenizer_files import MODEL
from fairseq_el.conversion.hf.vocabulary import BOS, EOS, PAD, UNK, Vocabulary, read_vocabulary
from fairseq_el.errors import FairseqElError, summary_of

TOLERANCE = 1e-4  # of the largest logit
_LENGTHS = (9, 5, 7)


def compare_logits(hf: Path, fairseq: Path) -> float:
    """Returns the largest difference of logits on sample input in fp32, relative to the largest logit.

    Args:
        hf: directory of Hugging Face's model.
        fairseq: checkpoint of fairseq's model, or its directory.

    Raises:
        FairseqElError: transformers is not installed, or the difference is above 1e-4.
    """
    directory = HFDirectory(hf)
    family, sizes = read_config(directory)
    vocabulary = read_vocabulary(directory, family)
    path = fairseq / MODEL if fairseq.is_dir() else fairseq
    model = build(load_checkpoint(str(path), "CKPT"), vocabulary.dictionary()).float()
    hf_model = load_hf(hf, family).float()
    with torch.no_grad():
        fairseq_logits, hf_logits = sample_logits(model, hf_model, family, vocabulary, sizes.positions)
    difference = float((fairseq_logits - hf_logits).abs().max() / hf_logits.abs().max().clamp(min=1e-30))
    if not difference <= TOLERANCE:
        raise FairseqElError(
            f"logits of both programs must agree within {TOLERANCE:g} of the largest; those of {hf} and {path} differ "
            f"by {difference:.3g}. Nothing was written; please report the model's config.json"
        )
    return difference


def load_hf(path: Path, family: Family) -> Any:
    """Loads a model with transformers, in fp32.

    Raises:
        FairseqElError: transformers is not installed, or does not load the model.
    """
    try:
        import transformers
    except ImportError as error:
        raise FairseqElError("--verify needs the package transformers: pip install 'fairseq_el[hf]'") from error
    try:
        return getattr(transformers, family.architecture).from_pretrained(str(path), dtype=torch.float32).eval()
    except Exception as error:  # transformers raises many classes for a damaged file
        raise FairseqElError(f"transformers could not load {path}: {summary_of(error)}") from error


def sample_logits(
    model: Any, hf_model: Any, family: Family, vocabulary: Vocabulary, positions: int
) -> Tuple[Tensor, Tensor]:
    """Computes logits of both programs for the same words, of the V symbols that both have. *Shape:* ``(words, V)``."""
    ids = torch.tensor([-1 if row is None else row for row in vocabulary.ids])
    present = vocabulary.present
    previous = _sentences(vocabulary, positions, seed=2)
    previous = [torch.cat([torch.tensor([EOS]), words[:-1]]) for words in previous]
    first = ids[vocabulary.start]
    fairseq_logits, hf_logits = [], []
    for number, words in enumerate(previous):  # one by one, because the programs pad on different sides
        rows = ids[words].clone()
        rows[0] = first
        if family.decoder_only:
            fairseq_logits.append(model(words.unsqueeze(0))[0][0])
            hf_logits.append(hf_model(input_ids=rows.unsqueeze(0)).logits[0])
            continue
        source = _sentences(vocabulary, positions, seed=1)[number].unsqueeze(0)
        fairseq_logits.append(model(source, torch.tensor([source.size(1)]), words.unsqueeze(0))[0][0])
        hf_logits.append(hf_model(input_ids=ids[source], decoder_input_ids=rows.unsqueeze(0)).logits[0])
    return torch.cat(fairseq_logits)[:, present], torch.cat(hf_logits)[:, ids[present]]


def _sentences(vocabulary: Vocabulary, longest: int, seed: int) -> List[Tensor]:
    """Draws sentences of words that both programs have, each with an eos at its end."""
    words = torch.tensor([index for index in vocabulary.present if index not in (BOS, PAD, EOS, UNK)])
    generator = torch.Generator().manual_seed(seed)
    sentences = []
    for length in _LENGTHS:
        drawn = torch.randint(len(words), (min(length, longest) - 1,), generator=generator)
        sentences.append(torch.cat([words[drawn], torch.tensor([EOS])]))
    return sentences
