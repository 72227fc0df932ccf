"""Command line of the fairseq program that set up a task."""

from __future__ import annotations

import argparse
from typing import Any

from omegaconf import DictConfig, OmegaConf


class CommandLine:
    """Options that a user gave a fairseq program, those of all groups."""

    def __init__(self, options: Any = None):
        """
        Args:
            options: all options, as one flat namespace or in groups as fairseq has them; None if they are unknown.
        """
        self._flat = options if isinstance(options, argparse.Namespace) else None
        self._groups = options if isinstance(options, DictConfig) else None

    @classmethod
    def of_task(cls, cfg: Any) -> CommandLine:
        """Finds the command line by a task's own configuration, which is one group of it.

        The group has the whole as its parent, because interpolations need it. Tasks with ``add_args`` have one flat
        namespace. A task that is made by hand has neither.
        """
        return cls(cfg._get_parent() if isinstance(cfg, DictConfig) else cfg)

    def get(self, group: str, name: str, default: Any = None) -> Any:
        """Returns an option, as ``get("dataset", "num_shards", 1)``; ``default`` if it is not set or does not exist."""
        found = None
        if self._flat is not None:
            found = getattr(self._flat, name, None)
        elif self._groups is not None:
            found = OmegaConf.select(self._groups, f"{group}.{name}")
        return default if found is None else found

    def find(self, name: str) -> Any:
        """Returns an option of any group, or None."""
        groups = [""] if self._groups is None else list(self._groups)
        found = (self.get(group, name) for group in groups)
        return next((value for value in found if value is not None), None)

    @property
    def reads_a_checkpoint(self) -> bool:
        """Says whether this is fairseq-generate, -interactive, -eval-lm or -validate: training has no ``--path``."""
        return self.get("common_eval", "path") is not None
