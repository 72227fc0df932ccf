"""All that decides the results of a job, so that a job which goes on can be compared with the one that began."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Dict, List

from fairseq.utils import split_paths
from omegaconf import OmegaConf

from fairseq_el.text.loading import Settings

_GROUPS = ("task", "generation", "bpe", "tokenizer")
_OTHERS = (("common", "seed"), ("common", "fp16"), ("common_eval", "post_process"), ("common_eval", "model_overrides"))
_DECIDES_NOTHING = {"data", "el_encoder_tokens", "el_memory_budget", "no_seed_provided"}


def deciding_files(settings: Settings) -> Dict[str, List[Path]]:
    """Files by what they are: ``checkpoints``, ``dictionaries``, and ``files`` that other options name."""
    cfg = settings.cfg
    data = Path(split_paths(cfg.task.data)[0])
    named = [cfg.generation.lm_path, cfg.generation.replace_unk]
    named += [value for group in ("task", "bpe", "tokenizer") for value in _values(cfg, group).values()]
    return {
        "checkpoints": [Path(path) for path in settings.checkpoints],
        "dictionaries": sorted(data.glob("dict*.txt")),
        "files": [Path(value) for value in named if isinstance(value, str) and value and Path(value).is_file()],
    }


def deciding_options(settings: Settings) -> Dict[str, Any]:
    """Options that can change a hypothesis, by their names, with plain values. Files are left out."""
    cfg = settings.cfg
    found: Dict[str, Any] = {"task": cfg.task._name}
    for group in _GROUPS:
        found.update(_values(cfg, group))
    found.update({name: OmegaConf.select(cfg, f"{group}.{name}") for group, name in _OTHERS})
    files = {str(path) for path in deciding_files(settings)["files"]}
    is_file = {name for name, value in found.items() if isinstance(value, str) and value in files}
    return {name: found[name] for name in sorted(found.keys() - is_file - _DECIDES_NOTHING)}


def _values(cfg: Any, group: str) -> Dict[str, Any]:
    """The options of a group, and those of its own that an old task has beside those of all other groups."""
    options = cfg.get(group)
    if not OmegaConf.is_config(options):
        if not isinstance(options, argparse.Namespace):
            return {} if options is None else {group: options}
        others = {name for each in cfg.keys() - {group} if OmegaConf.is_dict(cfg[each]) for name in cfg[each]}
        return {name: value for name, value in vars(options).items() if name not in others and name != "_name"}
    plain: Any = OmegaConf.to_container(options, resolve=True)
    name = plain.pop("_name", None)
    return plain if group in ("task", "generation") else {group: name, **plain}
