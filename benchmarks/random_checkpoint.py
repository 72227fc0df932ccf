"""Writes a checkpoint with random weights, to measure speed and memory of an architecture without a trained model.

    python benchmarks/random_checkpoint.py DATA --arch bart_large --save-dir DIR [any option of fairseq-train]

Makes the models of BART-large shape in docs/benchmarks.md. DATA is a directory of fairseq-preprocess. The file is
DIR/checkpoint_random.pt; its outputs mean nothing.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any, Optional, Sequence

import torch
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from fairseq_el.conversion import save_checkpoint


def configuration(arguments: Optional[Sequence[str]] = None) -> Any:
    """The configuration of fairseq-train. Args: ``arguments``: of its command line; by default this program's."""
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(
        parser, input_args=arguments, modify_parser=lambda p: p.set_defaults(optimizer="adam")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Hydra's, of how fairseq calls it
        return convert_namespace_to_omegaconf(args)


def random_model(cfg: Any) -> Any:
    """The model that fairseq-train would begin with."""
    torch.manual_seed(cfg.common.seed)
    return tasks.setup_task(cfg.task).build_model(cfg.model)


def main() -> None:
    if "--help" in sys.argv or "-h" in sys.argv or len(sys.argv) < 2:
        sys.exit(__doc__)
    cfg = configuration()
    path = Path(cfg.checkpoint.save_dir) / "checkpoint_random.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        sys.exit(f"{sys.argv[0]}: error: {path} exists already; choose another --save-dir, or remove it")
    model = random_model(cfg)
    state = {"args": None, "cfg": OmegaConf.to_container(cfg, enum_to_str=True), "model": model.state_dict()}
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    state.update(extra_state={"train_iterator": None}, optimizer_history=[history], task_state={})
    save_checkpoint(state, path)
    print(f"{path}: {sum(p.numel() for p in model.parameters()):,} random weights")


if __name__ == "__main__":
    main()
