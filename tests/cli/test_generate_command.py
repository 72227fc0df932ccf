"""``fairseq-el generate``: text in, text out, a line for a line."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest
from commands import EXAMPLE, SENTENCEPIECE
from tiny_data import fairseq, sentences
from tiny_texts import LENGTHENS, PAIR, write_models

from fairseq_el.cli import main
from fairseq_el.cli.progress_bar import ProgressBar
from fairseq_el.jobs import Hypothesis, Meter, Result

LINES = [*sentences(5, seed=3), "", *sentences(4, seed=4)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def generate(models, monkeypatch, capsys):
    """Runs the command with a tiny model, and gives its exit status and what it wrote to both streams."""

    def run(*options: object, text: str | bytes | None = None, path: str = "a.pt") -> tuple[int, str, str]:
        content = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", None if content is None else io.TextIOWrapper(io.BytesIO(content)))
        languages = [] if path == "lm.pt" else PAIR
        arguments = [models, "--path", models / path, *languages, "--cpu", *LENGTHENS, *options]
        status = main(["generate", *map(str, arguments)])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_a_line_for_a_line_whatever_the_batches_are(generate, tmp_path):
    text = "\n".join(LINES)  # the last line has no end
    (tmp_path / "in.txt").write_text(text, encoding="utf-8")
    status, expected, said = generate(text=text)
    assert (status, said) == (0, "")
    lines = expected.split("\n")
    assert len(lines) == len(LINES) + 1 and lines[5] == lines[-1] == ""
    assert all(lines[:5] + lines[6:-1])
    for options in (["--window", "0", "--batch-size", "2"], ["--window", "all"], ["--memory", "1MiB"]):
        stats, output = tmp_path / "stats.json", tmp_path / "out.txt"
        files = ["--input", tmp_path / "in.txt", "--output", output, "--stats", stats, "--force"]
        assert generate(*files, *options) == (0, "", "")
        assert output.read_text(encoding="utf-8") == expected
        written = json.loads(stats.read_text())
        assert (written["lines"], written["empty"], written["failed"]) == (10, 1, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.txt", "out.txt.journal", "stats.json"]


def test_nothing_in_nothing_out(generate, tmp_path):
    assert generate(text="") == (0, "", "")
    (tmp_path / "empty").write_text("")
    assert generate("--input", tmp_path / "empty", "--output", tmp_path / "out") == (0, "", "")
    assert (tmp_path / "out").read_bytes() == b""


def test_only_a_newline_ends_a_line(generate):
    ends = ["\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"]
    _, output, _ = generate(text="".join(f"w1{end}w2\n" for end in ends) + "\ufeffw3\n")
    assert len(output.split("\n")) == len(ends) + 2
    _, plain, _ = generate(text="\ufeffw1 w2\n")
    assert output.split("\n")[0] == plain.split("\n")[0]


NUMBER = re.compile(r"-?\d+\.\d+|inf")


@pytest.mark.parametrize("options", [["--nbest", "3"], ["--print-alignment"], ["--lenpen", "0.3", "--unnormalized"]])
def test_the_lines_of_fairseq_interactive(options, generate, models):
    """Stock decodes every line in a batch of its own there; scores of float32 may differ by rounding."""
    text = "\n".join(line for line in LINES if line) + "\n"
    arguments = [models, "--path", models / "a.pt", *PAIR, *LENGTHENS, "--beam", "4", *options]
    theirs = fairseq("interactive", *arguments, stdin=text, plugin=False)
    theirs = re.sub(r"^W-.*\n", "", theirs, flags=re.M)
    _, mine, _ = generate("--format", "fairseq", "--beam", "4", *options, text=text)
    assert NUMBER.sub("X", mine) == NUMBER.sub("X", theirs)
    assert list(map(float, NUMBER.findall(mine))) == pytest.approx(list(map(float, NUMBER.findall(theirs))), abs=1e-3)
    assert ("\nA-0\t" in mine) == ("--print-alignment" in options)


def test_json_lines(generate):
    _, output, _ = generate("--format", "jsonl", "--nbest", "2", "--print-alignment", text="\n".join(LINES))
    found = [json.loads(line) for line in output.split("\n")[:-1]]
    assert [one["id"] for one in found] == list(range(len(LINES)))
    assert [len(one["hypotheses"]) for one in found] == [2 if line else 0 for line in LINES]
    best = found[0]["hypotheses"][0]
    assert found[0]["source"] == LINES[0] and best["text"] == best["tokens"]
    assert len(best["positional_scores"]) == len(best["tokens"].split()) + 1
    assert best["score"] == pytest.approx(sum(best["positional_scores"]) / len(best["positional_scores"]), rel=1e-4)
    assert all(len(pair) == 2 for pair in best["alignment"])


def test_prompts_are_continued(generate):
    _, output, _ = generate("--max-len-b", "20", text="w1 w2\nw3\n", path="lm.pt")
    first, second = output.split("\n")[:-1]
    assert first.startswith("w1 w2") and second.startswith("w3")


class TestFailures:
    LONG = " ".join(["w1"] * 64)

    def test_all_lines_that_are_too_long_are_named_before_anything_is_decoded(self, generate, tmp_path):
        lines = [self.LONG, *["w1"] * 2000, self.LONG, "w2"]  # more than are read ahead
        (tmp_path / "in.txt").write_text("\n".join(lines))
        status, output, said = generate("--input", tmp_path / "in.txt")
        assert (status, output) == (1, "")
        assert "2 lines are longer than the 64 tokens that the model reads: 1, 2002; the longest has 65" in said

    def test_a_pipe_gives_what_was_decoded_before(self, generate):
        status, output, said = generate("--window", "2", text=f"w1\nw2\nw3\n{self.LONG}\n")
        assert status == 1 and output.count("\n") == 2
        assert "error: line 4 is longer than the 64 tokens" in said

    def test_they_may_be_left_empty(self, generate, tmp_path):
        stats = tmp_path / "stats.json"
        status, output, said = generate("--max-failures", "1", "--stats", stats, text=f"w1\n{self.LONG}\nw2\n")
        assert status == 1
        assert [bool(line) for line in output.split("\n")] == [True, False, True, False]
        assert said == "fairseq-el: note: line 2 has no output: it has 65 tokens, and the model reads 64\n"
        assert json.loads(stats.read_text())["failed_lines"] == [2]

    def test_they_may_be_cut(self, generate):
        status, output, said = generate("--truncate-source", text=f"{self.LONG}\n")
        assert (status, said) == (0, "") and output.strip()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"w1\nw2\xff\n", "line 2 of standard input has byte 3 (0xff), which is not: invalid start byte"),
            ("w1\n".encode("utf-16"), "standard input is in UTF-16. Convert it"),
        ],
    )
    def test_other_encodings(self, text, message, generate):
        status, output, said = generate(text=text)
        assert (status, output) == (1, "")
        assert message in said

    def test_an_output_that_was_begun_is_not_left_behind(self, generate, tmp_path, monkeypatch):
        def stop(self, *results):
            raise KeyboardInterrupt

        monkeypatch.setattr("fairseq_el.jobs.job.Job.write", stop)
        for options in ([], ["--no-journal"]):
            status, _, said = generate("--output", tmp_path / "out.txt", *options, text="w1\n")
            assert (status, said) == (130, "fairseq-el: error: stopped by Ctrl-C\n")
            assert list(tmp_path.iterdir()) == []

    def test_standard_input_is_closed(self, generate):
        status, _, said = generate()
        assert status == 1 and "the text must come from standard input, which is closed" in said

    def test_a_full_disk(self, generate, monkeypatch):
        full = open("/dev/full", "w")  # noqa: SIM115
        monkeypatch.setattr(sys, "stdout", full)
        status, _, said = generate(text="w1\n")
        assert status == 1 and "standard output: No space left on device" in said
        full.close()


class TestFormats:
    """Of results that are made up."""

    RESULT = Result(7, "s", (Hypothesis("one\r\ntwo\u2028three", "o n e", -1.5, (-1.0, -2.0), ((0, 1), (2, 3))),))

    def test_a_text_is_one_line(self):
        from fairseq_el.jobs import formatted

        assert formatted(self.RESULT, "text") == "one two\u2028three\n"
        assert formatted(Result(7, "", ()), "text") == "\n"

    def test_lines_of_fairseq(self):
        from fairseq_el.jobs import formatted

        score = "-2.1640424728393555"  # -1.5 / log(2) in float32, as torch prints it
        assert formatted(self.RESULT, "fairseq") == (
            f"S-7\ts\nH-7\t{score}\to n e\nD-7\t{score}\tone\r\ntwo\u2028three\nP-7\t-1.4427 -2.8854\nA-7\t0-1 2-3\n"
        )
        assert formatted(Result(7, "", ()), "fairseq") == "S-7\t\nH-7\t0.0\t\nD-7\t0.0\t\nP-7\t\n"

    def test_json(self):
        from fairseq_el.jobs import formatted

        line = formatted(self.RESULT, "jsonl")
        assert line.count("\n") == 1 and json.loads(line)["hypotheses"][0]["text"] == "one\r\ntwo\u2028three"
        assert json.loads(formatted(Result(7, "", (), "too long"), "jsonl"))["problem"] == "too long"


class TestProgress:
    def results(self) -> list[Result]:
        return [Result(0, "s", (Hypothesis("a", "a", -1.0, (-1.0, -1.0)),)), Result(1, "", ()), Result(2, "", (), "no")]

    def test_a_meter(self):
        now = [0.0]
        meter = Meter(6, lambda: now[0])
        meter.add(self.results())
        now[0] = 30.0
        assert meter.line(4) == ("3 of 6 lines, 0.1 sentences/s, 0 tokens/s, 0:00:30 left, 4 held back, 1 failed")
        expected = {"lines": 3, "empty": 1, "failed": 1, "tokens": 2, "seconds": 30.0}
        assert expected.items() <= meter.stats().items()

    def test_a_line_every_thirty_seconds(self, capsys):
        now = [0.0]
        meter = Meter(None, lambda: now[0])
        with ProgressBar(meter, lambda: now[0]) as bar:
            for now[0] in (10.0, 29.9, 30.0, 45.0, 60.5):
                meter.add(self.results()[:1])
                bar.show(0)
        said = capsys.readouterr().err.splitlines()
        assert [line.partition(",")[0] for line in said] == ["fairseq-el: 3 lines", "fairseq-el: 5 lines"]

    def test_a_bar_on_a_terminal(self, monkeypatch):
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stderr", terminal)
        meter = Meter(3)
        with ProgressBar(meter) as bar:
            meter.add(self.results())
            bar.show(2)
        assert "3/3" in terminal.getvalue() and "held_back=2" in terminal.getvalue()


def test_the_bundled_captions(capsys, tmp_path):
    """Sixty of them, through sentencepiece: any batches give the same bytes, and stock's texts."""
    captions = (EXAMPLE / "captions.de").read_text(encoding="utf-8").splitlines()[:60]
    (tmp_path / "in.txt").write_text("".join(f"{line}\n" for line in captions), encoding="utf-8")
    arguments = [EXAMPLE, "--path", EXAMPLE / "model.pt", "-s", "de", "-t", "en", "--beam", "4", *SENTENCEPIECE]
    output = set()
    for window, batch_size in (("0", "1"), ("7", "3"), ("all", "64")):
        options = ["--input", tmp_path / "in.txt", "--window", window, "--batch-size", batch_size, "--cpu"]
        assert main(["generate", *map(str, arguments), *map(str, options)]) == 0
        output.add(capsys.readouterr().out)
    (mine,) = output
    stock = fairseq("interactive", *arguments, "--input", tmp_path / "in.txt", plugin=False)
    assert mine.split("\n")[:-1] == re.findall(r"^D-\d+\t\S+\t(.*)$", stock, re.M)


def test_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    said = capsys.readouterr().out
    for option in ("--input", "--output", "--format", "--window", "--memory", "--truncate-source", "--max-failures"):
        assert option in said
    assert "fairseq-interactive --help" in said
