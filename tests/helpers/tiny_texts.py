"""Tiny random models as checkpoints, with dictionaries beside them, for programs that read text."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils, tasks
from fairseq.token_generation_constraints import pack_constraints
from tiny import dictionary
from tiny_data import WORDS, save_checkpoint

PAIR = ["-s", "aa", "-t", "bb"]
LENGTHENS = ["--max-len-a", "1.2", "--max-len-b", "2"]  # a sentence's longest output goes by its own length


def write_models(directory: Path) -> Path:
    """Checkpoints ``a.pt`` and ``b.pt`` (encoder and decoder) and ``lm.pt``, and the dictionaries for them."""
    words = dictionary(WORDS)
    for name in ("dict.aa.txt", "dict.bb.txt", "dict.txt"):
        words.save(str(directory / name))
    for seed, name in enumerate(("a.pt", "b.pt"), 1):
        save_checkpoint(directory / name, seed=seed, words=words, source_lang="aa", target_lang="bb")
    save_checkpoint(directory / "lm.pt", "transformer_lm", words=words, task="language_modeling")
    return directory


def alone_by_stock(
    directory: Path,
    checkpoints: list[str],
    lines: list[str],
    seeds: list[int] | None = None,
    prefixes: list[str] | None = None,
    **options: Any,
) -> list[Any]:
    """Hypotheses of stock fairseq's own task and generator in float64, for each line in a batch of its own.

    Args:
        lines: words with a space between them; constraints after a tab, if there is an option ``constraints``.
        seeds: of torch, for each line.
        prefixes: words that each output begins with.
        options: of the generator.
    """
    continues = checkpoints == ["lm.pt"]
    given = {"data": str(directory), "source_lang": "aa", "target_lang": "bb", "left_pad_source": True}
    given.update(left_pad_target=False, truncate_source=False, num_batch_buckets=0, eval_bleu=False)
    given.update(max_source_positions=64, max_target_positions=64, tokens_per_sample=64, output_dictionary_size=-1)
    given.update(sample_break_mode="eos", add_bos_token=False, self_target=False, future_target=False)
    given.update(past_target=False, task="language_modeling" if continues else "translation")
    task = tasks.setup_task(argparse.Namespace(**given))
    paths = [str(directory / name) for name in checkpoints]
    models = [model.double() for model in checkpoint_utils.load_model_ensemble(paths, task=task)[0]]
    for model in models:
        model.eval()
    generator = task.build_generator(models, argparse.Namespace(**options))
    found = []
    for number, line in enumerate(lines):
        text, *constraints = line.split("\t")
        tokens = task.source_dictionary.encode_line(text, add_if_not_exist=False).long()
        more = {}
        if "constraints" in options:
            words = task.target_dictionary
            each = [words.encode_line(one, append_eos=False, add_if_not_exist=False) for one in constraints]
            more["constraints"] = pack_constraints([each])
        dataset = task.build_dataset_for_inference([tokens], [len(tokens)], **more)
        if seeds is not None:
            torch.manual_seed(seeds[number])
        sample = dataset.collater([dataset[0]])
        prefix = None
        if prefixes is not None:
            prefix = task.target_dictionary.encode_line(prefixes[number], append_eos=False).long().unsqueeze(0)
        found += task.inference_step(generator, models, sample, prefix, constraints=sample.get("constraints"))
    return found
