"""The command ``fairseq-el``."""

from fairseq_el.cli.main import main

__all__ = ["main"]
