"""What fairseq's programs print for given texts."""

from __future__ import annotations

# All that str.splitlines or a text file of Python takes for the end of a line, and what else is hard to read.
LINE_ENDS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]
HARD = [
    *(f"before{end}after" for end in LINE_ENDS),
    *(end for end in LINE_ENDS),
    *("\n\nfirst", "last\n", "a\tb", "a\n\tb", "a\0b", "", " ", "\n \n", "- \n- ", "one\ntwo\nthree"),
]
MESSAGE = "2026-11-22 10:00:00 | INFO | fairseq_cli.generate | loading\n"
RESULT = "Generate test with beam=5: BLEU4 = 0.00\n"


def printed(hypotheses, references=None, nbest=1, interactive=False, detokenised=True) -> str:
    """Records in another order than that of the data set, unless ``interactive``."""
    found = []
    for number in range(len(hypotheses)) if interactive else reversed(range(len(hypotheses))):
        found.append(f"S-{number}\tsource {number}")
        if interactive:
            found.append(f"W-{number}\t0.123\tseconds")
        elif references is not None:
            found.append(f"T-{number}\t{references[number]}")
        for rank in range(nbest):
            score, text = f"-{rank}.5", hypotheses[number] if rank == 0 else f"worse\nthan {number}"
            found.append(f"H-{number}\t{score}\t\u2581pieces {number} {rank}")
            found += [f"D-{number}\t{score}\t{text}"] if detokenised else []
            found.append(f"P-{number}\t-0.1000 -1.2345")
    return MESSAGE + "".join(line + "\n" for line in found) + ("" if interactive else MESSAGE + RESULT)
