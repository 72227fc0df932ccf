"""Decoding with several programs side by side: stock fairseq, EL-attention, Hugging Face and CTranslate2.

Each program has a process of its own. All are loaded at the same time and timed in turn, so a machine that is slow for
a while slows all of them alike. Outputs are checked before any time is reported.
"""

from fairseq_el.bench.comparison import compare_programs
from fairseq_el.bench.methods import Method, parse_method, parse_methods
from fairseq_el.bench.report import NAMES
from fairseq_el.bench.settings import Settings

__all__ = ["NAMES", "Method", "Settings", "compare_programs", "parse_method", "parse_methods"]
