"""Jobs: results of lines in a journal, in the order of the input, to be resumed after a crash. No fairseq, no torch."""

from fairseq_el.jobs.failed_lines import FailedLines, refuse_too_many, too_long, too_long_problem
from fairseq_el.jobs.formats import FORMATS, formatted
from fairseq_el.jobs.input import Input, describe, describe_file
from fairseq_el.jobs.input_lines import numbered_lines
from fairseq_el.jobs.job import Job, open_job, prepare_job
from fairseq_el.jobs.journal import Journal
from fairseq_el.jobs.journal_directory import discard_journal
from fairseq_el.jobs.merge import MissingResultsError, merge
from fairseq_el.jobs.meter import Meter
from fairseq_el.jobs.progress import Progress, format_duration, progress_line, progress_lines, progress_of
from fairseq_el.jobs.result import Hypothesis, Result
from fairseq_el.jobs.run_file import Run, fingerprint_of, installed_versions, read_run
from fairseq_el.jobs.shards import Share, parse_share
from fairseq_el.jobs.stopping import INTERRUPTED, LAUNCHER, StopSignals, resuming_command
from fairseq_el.jobs.windows import batches, windows

__all__ = [
    "FORMATS",
    "INTERRUPTED",
    "LAUNCHER",
    "FailedLines",
    "Hypothesis",
    "Input",
    "Job",
    "Journal",
    "Meter",
    "MissingResultsError",
    "Progress",
    "Result",
    "Run",
    "Share",
    "StopSignals",
    "batches",
    "describe",
    "describe_file",
    "discard_journal",
    "fingerprint_of",
    "format_duration",
    "formatted",
    "installed_versions",
    "merge",
    "numbered_lines",
    "open_job",
    "parse_share",
    "prepare_job",
    "progress_line",
    "progress_lines",
    "progress_of",
    "read_run",
    "refuse_too_many",
    "resuming_command",
    "too_long",
    "too_long_problem",
    "windows",
]
