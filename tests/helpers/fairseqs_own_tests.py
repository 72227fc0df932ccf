"""Runs fairseq's own tests of its generators, in a process of their own: they are a package named ``tests`` too.

    python fairseqs_own_tests.py DIRECTORY {stock,el} OUTCOMES.json

``DIRECTORY`` is the directory ``tests`` of fairseq's repository. With ``el``, its tests find this package's generators
under the names of fairseq's.
"""

from __future__ import annotations

import json
import sys
import unittest
from pathlib import Path

import fairseq.sequence_generator
import torch

from fairseq_el.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment

MODULES = ("test_sequence_generator", "test_constraints", "test_inference_dropout")


def main(directory: Path, kind: str, outcomes: Path) -> None:
    if kind == "el":
        fairseq.sequence_generator.SequenceGenerator = ELSequenceGenerator
        fairseq.sequence_generator.SequenceGeneratorWithAlignment = ELSequenceGeneratorWithAlignment
    sys.path.insert(0, str(directory.parent))
    torch.manual_seed(1)
    suite = unittest.defaultTestLoader.loadTestsFromNames([f"{directory.name}.{module}" for module in MODULES])
    result = unittest.TextTestRunner(verbosity=0).run(suite)
    failed = {test.id(): trace.strip().splitlines()[-1] for test, trace in [*result.failures, *result.errors]}
    skipped = sorted(test.id() for test, _ in result.skipped)
    outcomes.write_text(json.dumps({"run": result.testsRun, "failed": failed, "skipped": skipped}))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2], Path(sys.argv[3]))
