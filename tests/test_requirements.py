"""The first line of an ImportError says what is wrong with fairseq and the command that mends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_el._requirements import mend_command

REPOSITORY = Path(__file__).resolve().parent.parent

BROKEN = {
    "missing": (None, "a module is not installed: fairseq"),
    "broken": (
        "raise ValueError('mutable default <class CommonConfig> for field common')",
        "ValueError: mutable default",
    ),
    "needs something": ("import surely_not_there", "a module is not installed: surely_not_there"),
    "old": ("__version__ = '0.10.2'", "version 0.10.2 is installed"),
    "new": ("__version__ = '1.0.0a0+abc'", "version 1.0.0a0+abc is installed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_unusable_fairseq(tmp_path, case):
    source, expected = BROKEN[case]
    (tmp_path / "fairseq_el").symlink_to(REPOSITORY / "fairseq_el")
    if source is not None:
        (tmp_path / "fairseq").mkdir()
        (tmp_path / "fairseq" / "__init__.py").write_text(source)
    isolated = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import fairseq_el",
    ]
    process = subprocess.run(isolated, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    message = process.stderr.strip().splitlines()[-1]
    assert message.startswith("ImportError: fairseq_el needs fairseq 0.12.2 or 0.12.3, but ")
    assert expected in message
    assert message.endswith(mend_command())


def test_the_mend_command_is_for_this_python():
    wanted = "fairseq-fixed==0.12.3.1" if sys.version_info >= (3, 11) else "'fairseq==0.12.2'"
    assert wanted in mend_command()


def test_commands_say_nothing_that_was_not_asked_for():
    """fairseq, imported, tells everyone to install a package for speech synthesis."""
    process = subprocess.run(
        [sys.executable, "-m", "fairseq_el.cli", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith("usage: fairseq-el") and process.stderr == ""
