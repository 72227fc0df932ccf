from __future__ import annotations

import subprocess
import sys

from fairseq_el import FairseqElError, UnsupportedModelError
from fairseq_el.failure_report import explain

PROGRAM = """
import sys
sys.argv[0] = {program!r}
from fairseq_el import FairseqElError
from fairseq_el.failure_report import report_failures_without_traceback
report_failures_without_traceback()
report_failures_without_traceback()
raise {error}
"""


def end_with(error, program="/usr/bin/fairseq-generate"):
    command = [sys.executable, "-c", PROGRAM.format(error=error, program=program)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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


def test_scripts_of_users_keep_their_tracebacks():
    error = "FairseqElError('what')"
    assert "Traceback" in end_with(error, program="my_script.py").stderr
    assert "Traceback" not in end_with(error, program="/site-packages/fairseq_cli/generate.py").stderr


def test_explain():
    of_speech = explain(RuntimeError("Expected attn_mask->sizes()[0] == batch_size to be true, but got false."))
    assert of_speech is not None and "such as those of convtransformer" in of_speech
    fused_encoder = explain(RuntimeError("Mask Type should be defined"))  # what torch 2 says to fairseq 0.12.2
    assert "fairseq 0.12.2" in fused_encoder and "a task el_*" in fused_encoder
    assert explain(FairseqElError("x")) == "x"
    assert "- one\n  - two" in str(explain(UnsupportedModelError("Model", ["one", "two"])))
