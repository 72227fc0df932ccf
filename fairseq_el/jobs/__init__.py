"""Text in, text out: in input order, and to be resumed after a crash.

:mod:`generator` is imported by itself: it needs fairseq, which the rest does without.
"""

from fairseq_el.jobs.formats import FORMATS, formatted
from fairseq_el.jobs.input import Input, describe_file
from fairseq_el.jobs.input_lines import numbered_lines
from fairseq_el.jobs.job import Job, open_job
from fairseq_el.jobs.journal import Journal
from fairseq_el.jobs.journal_directory import discard_journal
from fairseq_el.jobs.merge import merge
from fairseq_el.jobs.meter import Meter
from fairseq_el.jobs.plain_output import PlainOutput
from fairseq_el.jobs.progress import Progress, format_duration, progress_lines, progress_of
from fairseq_el.jobs.result import Hypothesis, Result
from fairseq_el.jobs.run_file import Run, fingerprint_of, read_run
from fairseq_el.jobs.shards import Share, parse_share
from fairseq_el.jobs.stopping import INTERRUPTED, StopSignals, resuming_command

__all__ = [
    "FORMATS",
    "INTERRUPTED",
    "Hypothesis",
    "Input",
    "Job",
    "Journal",
    "Meter",
    "PlainOutput",
    "Progress",
    "Result",
    "Run",
    "Share",
    "StopSignals",
    "describe_file",
    "discard_journal",
    "fingerprint_of",
    "format_duration",
    "formatted",
    "merge",
    "numbered_lines",
    "open_job",
    "parse_share",
    "progress_lines",
    "progress_of",
    "read_run",
    "resuming_command",
]
