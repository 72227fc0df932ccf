"""A Hugging Face model as fairseq has it, in memory; and the files of a directory that was made of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Tuple

from fairseq_el.conversion.checkpoint import Checkpoint
from fairseq_el.conversion.hf import weights
from fairseq_el.conversion.hf.families import ONLY_EL_ACTIVATIONS, Family, Sizes, family_of
from fairseq_el.conversion.hf.hf_directory import CONFIG, GENERATION, HFDirectory
from fairseq_el.conversion.hf.model_config import config_problems, fairseq_settings, sizes_of
from fairseq_el.conversion.hf.vocabulary import EOS, Vocabulary, read_vocabulary
from fairseq_el.conversion.strip import strip
from fairseq_el.errors import FairseqElError

MODEL, OPTIONS, LANGUAGES = "model.pt", "generate.args", "langs.txt"
ORIGINALS = "hf"  # configuration and tokenizer as they were, for the way back
SPM = "sentencepiece.bpe.model"  # where fairseq's hub looks for it


@dataclass
class Converted:
    """A model in memory, as fairseq has it."""

    family: Family
    sizes: Sizes
    vocabulary: Vocabulary
    state: Dict[str, Any]

    @property
    def settings(self) -> Any:
        return self.state["args"]


def convert(directory: HFDirectory) -> Converted:
    """The checkpoint of a model.

    Raises:
        FairseqElError: fairseq can't compute the same; all options of ``config.json`` that keep it from that are named.
    """
    tokenizer = directory.json("tokenizer_config.json")
    family = family_of(directory.config, str(tokenizer.get("tokenizer_class")), directory.path / CONFIG)
    problems = config_problems(family, directory.config)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise FairseqElError(
            f"{directory.path / CONFIG} has settings with which fairseq can't compute the same as "
            f"{family.name}:\n{listed}\n"
            "Such a model can't be converted; use a checkpoint without them"
        )
    sizes = sizes_of(family, directory.config)
    tensors = weights.check_tensors(directory.tensors(), family, sizes, directory.path)
    vocabulary = read_vocabulary(directory, family)  # after the weights, which have as many rows as config.json says
    model = weights.to_fairseq(tensors, family, sizes, vocabulary)
    biased = "decoder.output_projection.bias" in model
    settings = fairseq_settings(
        family, sizes, vocabulary.start == EOS, biased, biased or sizes.activation in ONLY_EL_ACTIVATIONS,
        vocabulary.languages, _pair(vocabulary, directory, tokenizer) if family.languages else ("source", "target"),
    )  # fmt: skip
    state = strip(Checkpoint({"args": settings, "model": model}, str(directory.path)), None)
    return Converted(family, sizes, vocabulary, state)


def _pair(vocabulary: Vocabulary, directory: HFDirectory, tokenizer: Dict[str, Any]) -> Tuple[str, str]:
    """Source and target: those that the files name (the target as what decoding begins with), or the first and last."""
    languages, symbols = vocabulary.languages, dict(zip(vocabulary.ids, vocabulary.symbols))
    source, target = (tokenizer.get(name) for name in ("src_lang", "tgt_lang"))
    generation = directory.json(GENERATION) or directory.config
    for index in (generation.get("forced_bos_token_id"), directory.config.get("decoder_start_token_id")):
        forced = symbols.get(index, "")[1:-1] if isinstance(index, int) else ""
        target = forced if forced in languages else target
    others = [language for language in languages if language not in (source, target)] or languages
    return (
        source if source in languages and source != target else others[0],
        target if target in languages else others[-1],
    )
