"""The command line that a task was set up for, as far as a task can see it."""

from __future__ import annotations

import argparse
from typing import Any

from omegaconf import DictConfig, OmegaConf


class Command:
    """What the user asked a fairseq program for."""

    def __init__(self, options: Any = None):
        """``options``: all of them, as one flat namespace or in groups as fairseq has them; None: unknown."""
        self._flat = options if isinstance(options, argparse.Namespace) else None
        self._groups = options if isinstance(options, DictConfig) else None

    @classmethod
    def of_task(cls, cfg: Any) -> Command:
        """The command line that a task's own configuration is one group of.

        fairseq keeps the whole in reach: as the parent of the group, which its interpolations need, or in tasks with
        ``add_args`` as one flat namespace. A task that is made by hand has none.
        """
        return cls(cfg._get_parent() if isinstance(cfg, DictConfig) else cfg)

    def get(self, group: str, name: str, default: Any = None) -> Any:
        """An option, such as ``get("dataset", "num_shards", 1)``; ``default`` where it is not set or does not exist."""
        found = None
        if self._flat is not None:
            found = getattr(self._flat, name, None)
        elif self._groups is not None:
            found = OmegaConf.select(self._groups, f"{group}.{name}")
        return default if found is None else found

    def find(self, name: str) -> Any:
        """An option of whatever group, or None."""
        groups = [""] if self._groups is None else list(self._groups)
        found = (self.get(group, name) for group in groups)
        return next((value for value in found if value is not None), None)

    @property
    def reads_a_checkpoint(self) -> bool:
        """Whether this is fairseq-generate, -interactive, -eval-lm or -validate: training has no ``--path``."""
        return self.get("common_eval", "path") is not None
