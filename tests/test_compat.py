"""An ImportError says in its first line what is wrong with fairseq and which command installs it; ``--user-dir``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_el._compat import install_command, other_spellings

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
    assert message.endswith(install_command())


def test_the_install_command_is_for_this_python():
    wanted = "fairseq-fixed==0.12.3.1" if sys.version_info >= (3, 11) else "'fairseq==0.12.2'"
    assert wanted in install_command()


def test_commands_say_nothing_that_was_not_asked_for():
    """fairseq, imported, tells everyone to install a package for speech synthesis."""
    process = subprocess.run(
        [sys.executable, "-m", "fairseq_el.cli", "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert process.stdout.startswith("usage: fairseq-el") and process.stderr == ""


def test_only_other_names_of_the_same_directory(tmp_path):
    site = tmp_path / "site"
    for directory in ("fairseq", "fairseq_el"):
        (site / directory).mkdir(parents=True)
    link = tmp_path / "link" / "fairseq_el"
    link.parent.mkdir()
    link.symlink_to(site / "fairseq_el")
    beside_fairseq = os.path.join(str(site / "fairseq"), "..", "fairseq_el")
    assert other_spellings(str(site / "fairseq_el"), str(site / "fairseq")) == [beside_fairseq]
    assert other_spellings(str(link), str(site / "fairseq")) == [str(site / "fairseq_el"), beside_fairseq]

    copy = tmp_path / "copy" / "fairseq_el"
    copy.mkdir(parents=True)
    assert other_spellings(str(copy), str(site / "fairseq")) == []
