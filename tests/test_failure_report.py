from __future__ import annotations

import subprocess
import sys

from fairseq_el import FairseqElError, UnsupportedModelError
from fairseq_el.failure_report import explain

PROGRAM = """
import sys
from fairseq_el import FairseqElError
from fairseq_el.failure_report import report_failures_without_traceback
report_failures_without_traceback()
report_failures_without_traceback()
raise {error}
"""


def end_with(error):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(error=error)], capture_output=True, text=True, check=False
    )


def test_errors_of_this_package_are_one_message():
    process = end_with("FairseqElError('what, rule, value, what to do')")
    assert process.returncode == 1
    assert process.stderr.endswith("fairseq_el: error: what, rule, value, what to do\n")
    assert "Traceback" not in process.stderr


def test_other_errors_keep_their_traceback():
    process = end_with("KeyError('of somebody else')")
    assert process.returncode == 1
    assert "Traceback" in process.stderr and "KeyError: 'of somebody else'" in process.stderr
    assert "fairseq_el: error" not in process.stderr


def test_explain():
    assert explain(FairseqElError("x")) == "x"
    assert "- one\n  - two" in str(explain(UnsupportedModelError("Model", ["one", "two"])))
