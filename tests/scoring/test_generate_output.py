"""Reading what ``fairseq-generate`` writes."""

from __future__ import annotations

import pytest

from fairseq_el.errors import FairseqElError
from fairseq_el.scoring import is_generate_output, read_generate_output

OUTPUT = """\
2026-11-22 10:00:00 | INFO | fairseq_cli.generate | loading
S-1\tzwei Wörter
T-1\ttwo\twords
H-1\t-0.5\t▁two ▁words
D-1\t-0.5\ttwo words
P-1\t-0.1 -0.2
H-1\t-0.7\t▁two
D-1\t-0.7\ttwo
S-0\teins
T-0\tone
H-0\t-0.25\t▁one
D-0\t-0.25\tone
P-0\t-0.1
Generate test with beam=5: BLEU4 = 0.00
"""


def test_the_best_of_each_sentence_in_the_order_of_the_data_set():
    output = read_generate_output(OUTPUT.splitlines())
    assert output.in_order(output.sources, "sources") == ["eins", "zwei Wörter"]
    assert output.in_order(output.references, "references") == ["one", "two\twords"]
    assert output.in_order(output.hypotheses, "hypotheses") == ["one", "two words"]


def test_programs_that_write_no_detokenised_lines():
    output = read_generate_output([line for line in OUTPUT.splitlines() if not line.startswith("D-")])
    assert output.in_order(output.hypotheses, "hypotheses") == ["▁one", "▁two ▁words"]


def test_an_empty_hypothesis_is_a_hypothesis():
    output = read_generate_output(["S-0\tx", "H-0\t-1.0\t", "D-0\t-1.0\t"])
    assert output.in_order(output.hypotheses, "hypotheses") == [""]


def test_plain_text_is_told_apart():
    assert is_generate_output(OUTPUT.splitlines())
    assert not is_generate_output(["A-1 vitamin", "S-1 is a train", "T-shirt"])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["S-0\ta", "S-0\tb"], "line 2 has S-0 for the second time: the file must hold the output of one run"),
        (["T-0\ta", "T-0\tb"], "line 2 has T-0 for the second time"),
        (["S-0\ta", "H-0\t-1"], "line 2 must be H-0, a score and a text with tabs"),
        (
            ["S-0\ta", "H-0\t-1\ta", "D-0\t-1\ta", "S-1\tb", "H-1\t-1\tb"],
            "1 hypotheses have a line H- but no line D-: 1",
        ),
    ],
)
def test_damaged_output(lines, message):
    with pytest.raises(FairseqElError, match=message):
        read_generate_output(lines)


def test_missing_sentences_are_named():
    output = read_generate_output([line for i in (0, 2, 9) for line in (f"S-{i}\tx", f"H-{i}\t-1\ty")])
    with pytest.raises(
        FairseqElError, match=r"from 0 to 9; hypotheses are missing of 7: 1, 3, 4, 5, 6, \.\.\. \(7 in all\)"
    ):
        output.in_order(output.hypotheses, "hypotheses")
    with pytest.raises(FairseqElError, match="has no references: was it given --quiet"):
        output.in_order(output.references, "references")
