"""Every kind of ``fairseq-el`` that writes, killed with half of each of its files written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import hf_models
import pytest
from commands import EXAMPLE, REPOSITORY

from fairseq_el.cli import main

KINDS = {  # what it writes, what is there before, and at how many places it can be killed, at least
    "convert from-hf hf --force --out": ("out", "old/fairseq", 16),
    "convert to-hf fairseq --force --out": ("out", "old/hf", 12),
    f"convert to-el {EXAMPLE / 'model.pt'} --force --out": ("out.pt", "fairseq/model.pt", 4),
    f"score {EXAMPLE / 'captions.en'} --force --extract hypo": ("text", "old/text", 4),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A tiny BART of Hugging Face's in ``hf``, and in ``fairseq`` what it was converted to."""
    work = tmp_path_factory.mktemp("killed")
    hf_models.save(hf_models.build("bart", 4), "bart", work / "hf", num_beams=2, max_length=12)
    hf_models.save(hf_models.build("bart", 4), "bart", work / "old hf", num_beams=3, max_length=13)
    for source, out in (("hf", "fairseq"), ("old hf", "old/fairseq")):
        assert main(["convert", "from-hf", str(work / source), "--out", str(work / out)]) == 0
    assert main(["convert", "to-hf", str(work / "old" / "fairseq"), "--out", str(work / "old" / "hf")]) == 0
    (work / "old" / "text").write_text("so that it is not what is written again")
    return work


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the program instead of starting it for every write")
def test_nothing_half_written_has_the_final_name(sources):
    """The name has nothing, or all of the old, or all of the new; running again finishes the work and cleans up."""
    cases = [f"{name} {old} {kind} {name}" for kind, (name, old, _) in KINDS.items()]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests" / "helpers" / "killed_writes.py"), *cases],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=sources,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for (kind, (_, _, writes)), (new, replaced) in zip(KINDS.items(), json.loads(done.stdout)):
        assert new["old"] is None and replaced["old"] not in (None, new["whole"])
        for found in (new, replaced):
            assert found["status"] == 0 and found["whole"] == new["whole"] and len(found["runs"]) >= writes, kind
            for run in found["runs"]:
                assert run["left"] in (None, found["old"], found["whole"]), (kind, run["at"])
                assert (run["again"], run["whole"], run["hidden"]) == (0, found["whole"], []), (kind, run["at"])
