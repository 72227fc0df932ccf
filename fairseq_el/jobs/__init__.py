"""Text in, text out: in input order, and to be resumed after a crash.

:mod:`generator` is imported by itself: it needs fairseq, which the rest does without.
"""

from fairseq_el.jobs.formats import FORMATS, formatted
from fairseq_el.jobs.input_lines import numbered_lines
from fairseq_el.jobs.meter import Meter
from fairseq_el.jobs.plain_output import PlainOutput
from fairseq_el.jobs.result import Hypothesis, Result

__all__ = [
    "FORMATS",
    "Hypothesis",
    "Meter",
    "PlainOutput",
    "Result",
    "formatted",
    "numbered_lines",
]
