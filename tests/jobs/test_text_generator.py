"""Generator: text in, text out, in tiny models, against stock fairseq with each line in a batch of its own."""

from __future__ import annotations

import sys
from typing import Any, Iterator

import pytest
from tiny import dictionary
from tiny_data import sentences
from tiny_texts import LENGTHENS, PAIR, alone_by_stock, write_models

import fairseq_el
from fairseq_el import FairseqElError, NoHypothesisError, OptionError
from fairseq_el.generation import sentence_seed
from fairseq_el.jobs import Result
from fairseq_el.tasks import ELLanguageModelingTask, ELTranslationTask
from fairseq_el.text.generator import Generator

EXACT = ["--cpu", "--el-dtype", "fp64"]
LINES = [*sentences(8, seed=3, longest=12), "w1", *sentences(2, seed=4, longest=20)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def generator_of(models):
    """Makes the generator of a command line, each once."""
    made: dict[tuple, Generator] = {}

    def make(path: str, *options: str) -> Generator:
        if (path, options) not in made:
            paths = ":".join(str(models / name) for name in path.split(":"))
            made[path, options] = Generator.from_arguments([str(models), "--path", paths, *EXACT, *options])
        return made[path, options]

    return make


def assert_same(results: list[Result], theirs: list[Any]) -> None:
    """The words and scores of stock's hypotheses, in the order of the lines."""
    words = dictionary()
    assert [result.number for result in results] == list(range(len(theirs)))
    for result, expected in zip(results, theirs):
        assert [h.words for h in result.hypotheses] == [words.string(h["tokens"]) for h in expected]
        assert [h.text for h in result.hypotheses] == [h.words for h in result.hypotheses]
        for mine, their in zip(result.hypotheses, expected):
            assert mine.score == pytest.approx(float(their["score"]), abs=1e-5)
            assert mine.positional_scores == pytest.approx(their["positional_scores"].tolist(), abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("window", [0, 2, "all"])
def test_results_do_not_depend_on_batches(window, batch_size, generator_of, models):
    generator = generator_of("a.pt", *PAIR, *LENGTHENS, "--beam", "3", "--nbest", "3")
    options = {"beam": 3, "max_len_a": 1.2, "max_len_b": 2}
    expected = alone_by_stock(models, ["a.pt"], LINES, **options)
    assert_same(list(generator.stream(LINES, window=window, batch_size=batch_size)), expected)


@pytest.mark.parametrize(
    ("path", "given", "options", "lines"),
    [
        ("a.pt:b.pt", ["--beam", "2", "--nbest", "2"], {"beam": 2}, LINES),
        ("a.pt", ["--constraints"], {"constraints": "ordered"}, [f"{line}\tw3\tw4 w5" for line in LINES]),
        (
            "a.pt",
            ["--diverse-beam-groups", "2", "--beam", "4", "--nbest", "4"],
            {"diverse_beam_groups": 2, "beam": 4},
            LINES,
        ),
        ("a.pt", ["--match-source-len"], {"match_source_len": True}, LINES),
    ],
)
def test_ensembles_and_searches(path, given, options, lines, generator_of, models):
    generator = generator_of(path, *PAIR, *LENGTHENS, *given)
    expected = alone_by_stock(models, path.split(":"), lines, **{"max_len_a": 1.2, "max_len_b": 2, **options})
    if "--nbest" not in given:
        expected = [each[:1] for each in expected]
    assert_same(list(generator.stream(lines, window=5, batch_size=3)), expected)


def test_prefixes_of_the_output(generator_of, models):
    """Of different lengths, one longer than its output may be; a line needs none."""
    generator = generator_of("a.pt", *PAIR, *LENGTHENS, "--beam", "2", "--nbest", "2")
    prefixes = ["w7", "", "w3 w4 w5", "w9 w9", "w1 w2 w3 w4 w5 w6 w7 w8"]
    lines = [*LINES[:4], "w1 w2"]
    expected = alone_by_stock(models, ["a.pt"], lines, prefixes=prefixes, beam=2, max_len_a=1.2, max_len_b=2)
    given = [f"{line}\t{prefix}" for line, prefix in zip(lines, prefixes)]
    for batch_size in (1, 3):
        assert_same(list(generator.stream(given, batch_size=batch_size, target_prefix=True)), expected)
    with pytest.raises(OptionError, match="a language model continues the line itself"):
        generator_of("lm.pt").stream(lines, target_prefix=True)
    with pytest.raises(OptionError, match="both come after a tab"):
        generator_of("a.pt", *PAIR, *LENGTHENS, "--constraints").stream(lines, target_prefix=True)


def test_samples_are_those_of_a_line_by_itself(generator_of, models):
    given = ["--sampling", "--beam", "2", "--nbest", "2", "--seed", "5"]
    generator = generator_of("a.pt", *PAIR, *LENGTHENS, *given)
    seeds = [sentence_seed(5, number) for number in range(len(LINES))]
    options = {"sampling": True, "beam": 2, "max_len_a": 1.2, "max_len_b": 2}
    expected = alone_by_stock(models, ["a.pt"], LINES, seeds, **options)
    for batch_size in (1, 4):
        assert_same(list(generator.stream(LINES, batch_size=batch_size)), expected)


def test_language_models_continue_prompts(generator_of, models):
    generator = generator_of("lm.pt", "--max-len-b", "20", "--beam", "2", "--nbest", "2")
    assert isinstance(generator.loaded.task, ELLanguageModelingTask)
    expected = alone_by_stock(models, ["lm.pt"], LINES, beam=2, max_len_b=20)
    results = list(generator.stream(LINES, batch_size=4))
    assert_same(results, expected)
    assert all(result.hypotheses[0].words.startswith(line) for result, line in zip(results, LINES) if len(line) < 40)


def test_in_python(models):
    generator = fairseq_el.Generator.from_checkpoint(
        models / "a.pt", data=models, cpu=True, beam=2, nbest=2, lenpen=0.5, sampling=False, min_len=None
    )
    assert isinstance(
        generator.loaded.task, ELTranslationTask
    )  # which the checkpoint was trained for, as its languages
    assert (generator.loaded.cfg.task.source_lang, generator.loaded.cfg.task.target_lang) == ("aa", "bb")
    assert generator.loaded.generator.len_penalty == 0.5
    (first, *others) = generator.stream(iter(LINES[:3]))
    assert isinstance(first, Result) and len(first.hypotheses) == 2 and len(others) == 2
    ensemble = fairseq_el.Generator.from_checkpoint([models / "a.pt", models / "b.pt"], data=models, cpu=True)
    assert len(ensemble.loaded.models) == 2


def test_unknown_words_are_replaced_by_those_they_stand_for(generator_of, models, tmp_path):
    (tmp_path / "words").write_text("w1 one\n")
    given = [*PAIR, "--print-alignment", "--unkpen", "-30", "--min-len", "3"]
    (plain,) = generator_of("a.pt", *given).stream(["w1 w2 w3"])
    (mine,) = generator_of("a.pt", *given, "--replace-unk", str(tmp_path / "words")).stream(["w1 w2 w3"])
    (before,), (after,) = plain.hypotheses, mine.hypotheses
    pairs = {target: ["one", "w2", "w3"][position] for position, target in after.alignment}
    assert "<unk>" in before.words
    for i, (word, replaced) in enumerate(zip(before.words.split(), after.words.split())):
        assert replaced == (pairs[i] if word == "<unk>" else word)


def test_output_adds_no_words_to_the_dictionary(generator_of):
    """As fairseq does it with --post-process: lines that have the word later are then read with a number too large."""
    generator = generator_of("lm.pt", "--post-process", "letter", "--max-len-b", "8")
    (first,) = generator.stream(["w1"])
    assert first.hypotheses[0].words not in generator.loaded.task.target_dictionary
    assert len(list(generator.stream([first.hypotheses[0].words]))) == 1


class TestLines:
    def test_empty_lines_need_no_model(self, generator_of, monkeypatch):
        generator = generator_of("a.pt", *PAIR)
        monkeypatch.setattr(generator.loaded.task, "inference_step", lambda *unused, **also: pytest.fail("it decodes"))
        assert list(generator.stream(["", " \t", "\r"])) == [Result(number, "", ()) for number in range(3)]

    def test_nothing(self, generator_of):
        assert list(generator_of("a.pt", *PAIR).stream([])) == []

    def test_white_space_is_left_out_as_in_fairseq_interactive(self, generator_of):
        generator = generator_of("a.pt", *PAIR)
        plain, *others = generator.stream(["w1 w2", " w1  w2\r", "w1\u2028w2", "w1\tw2\u3000"])
        assert [each.hypotheses for each in others] == [plain.hypotheses] * 3
        assert plain.source == "w1 w2"

    def test_only_a_window_is_read_ahead(self, generator_of):
        read = []

        def lines() -> Iterator[str]:
            for line in LINES:
                read.append(line)
                yield line

        results = generator_of("a.pt", *PAIR).stream(lines(), window=4, batch_size=2)
        for number, result in enumerate(results):
            assert result.number == number
            assert len(read) <= (number // 4 + 1) * 4

    def test_the_longest_of_a_window_are_decoded_first(self, generator_of):
        generator = generator_of("a.pt", *PAIR)
        lines = ["w1", "w1 w2 w3", "w1 w2", "w4"]
        decoded = list(generator.batches(enumerate(lines), batch_size=2))
        assert [[result.number for result in batch] for batch in decoded] == [[1, 2], [0, 3]]
        assert [result.number for result in generator.stream(lines, ordered=False, batch_size=2)] == [1, 2, 0, 3]
        in_order = generator.batches(enumerate(lines), batch_size=2, window=0)
        assert [sorted(result.number for result in batch) for batch in in_order] == [[0, 1], [2, 3]]

    def test_lines_that_are_left_keep_their_numbers_and_samples(self, generator_of):
        generator = generator_of("a.pt", *PAIR, "--sampling", "--beam", "2", "--nbest", "2")
        whole = list(generator.stream(LINES))
        left = [(number, LINES[number]) for number in (2, 5, 8)]
        results = [result for batch in generator.batches(left, batch_size=2) for result in batch]
        assert sorted(results, key=lambda each: each.number) == [whole[number] for number, _ in left]


class TestFailures:
    LONG = " ".join(["w1"] * 64)  # with the eos, one more than the model reads
    REFUSED = (
        "2 lines are longer than the 64 tokens that the model reads: 2, 4; the longest has 66. Cut them with "
        "--truncate-source, or leave their lines empty with --max-failures 2"
    )

    def lines(self) -> list[str]:
        return ["w1", self.LONG, "w2", f"{self.LONG} w1", "w3"]

    def test_lines_that_are_too_long_are_refused_together(self, generator_of):
        generator = generator_of("a.pt", *PAIR)
        with pytest.raises(FairseqElError) as refused:
            list(generator.stream(self.lines()))
        assert str(refused.value) == self.REFUSED
        with pytest.raises(FairseqElError) as refused:
            generator.refuse_too_long(enumerate(self.lines()))
        assert str(refused.value) == self.REFUSED
        generator.refuse_too_long(enumerate(["w1", ""]))
        generator.refuse_too_long(enumerate([""]))
        generator.refuse_too_long(enumerate([f"w1\t{self.LONG}"]), target_prefix=True)

    def test_nothing_that_was_decoded_is_lost(self, generator_of):
        results = generator_of("a.pt", *PAIR).stream(self.lines(), window=1)
        assert next(results).number == 0
        with pytest.raises(FairseqElError, match=r"^line 2 is longer than the 64 tokens .* it has 65"):
            next(results)

    def test_they_may_be_cut(self, generator_of):
        generator = generator_of("a.pt", *PAIR)
        results = list(generator.stream(self.lines(), truncate_source=True))
        assert [len(result.source.split()) for result in results] == [1, 63, 1, 63, 1]
        whole = " ".join(["w1"] * 63)
        assert results[1].hypotheses == next(generator.stream([whole])).hypotheses

    def test_some_may_fail(self, generator_of):
        generator = generator_of("a.pt", *PAIR)
        results = list(generator.stream(self.lines(), max_failures=2))
        assert [len(result.hypotheses) for result in results] == [1, 0, 1, 0, 1]
        problem = "it has 65 tokens, and the model reads 64"
        assert [result.problem for result in results] == ["", problem, "", problem.replace("65", "66"), ""]
        with pytest.raises(FairseqElError, match=r"^2 lines have no output, and --max-failures allows 1: 2, 4\."):
            list(generator.stream(self.lines(), max_failures=1))

    def test_a_sentence_that_fails_does_not_take_its_batch_with_it(self, generator_of, monkeypatch):
        generator = generator_of("a.pt", *PAIR)
        expected = list(generator.stream(LINES))
        decode = generator.loaded.task.inference_step

        def fail_with_3(generator, models, sample, **options):
            if 3 in sample["id"].tolist():
                raise NoHypothesisError("no word is left.")
            return decode(generator, models, sample, **options)

        monkeypatch.setattr(generator.loaded.task, "inference_step", fail_with_3)
        results = list(generator.stream(LINES, batch_size=4, max_failures=1))
        assert results[3] == Result(3, "", (), "no word is left.")
        assert results[:3] + results[4:] == expected[:3] + expected[4:]
        with pytest.raises(FairseqElError, match=r"^line 4 has no output: no word is left. --max-failures 1 leaves"):
            list(generator.stream(LINES, batch_size=4))

    def test_an_output_that_must_be_longer_than_it_may_be(self, generator_of):
        generator = generator_of("a.pt", *PAIR, "--max-len-a", "1", "--max-len-b", "0", "--min-len", "3")
        results = list(generator.stream(["w1", "w1 w2 w3"], max_failures=1))
        assert results[0].problem.startswith("--min-len must not be larger than the longest output; it is 3")
        assert results[1].hypotheses

    def test_prompts_are_not_cut(self, generator_of):
        with pytest.raises(OptionError, match="--truncate-source cuts the ends of sources, and a language model"):
            generator_of("lm.pt").stream(LINES, truncate_source=True)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"window": -1}, 'window must be a number of lines, or "all"; got -1'),
            ({"window": "some"}, "window must be"),
            ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
            ({"memory": "some"}, "a size is a number with a unit"),
        ],
    )
    def test_values_that_are_not_allowed(self, options, message, generator_of):
        with pytest.raises(ValueError, match=message):
            generator_of("a.pt", *PAIR).stream(LINES, **options)


class TestBatches:
    def sizes(self, generator: Generator, **options: Any) -> list[int]:
        return [len(batch) for batch in generator.batches(enumerate(LINES), **options)]

    def test_sizes(self, generator_of):
        generator = generator_of("a.pt", *PAIR)
        assert self.sizes(generator) == [len(LINES)]
        assert self.sizes(generator, batch_size=4) == [4, 4, 3]
        assert self.sizes(generator, memory="1MiB") == [1] * len(LINES)
        assert self.sizes(generator, memory="64GiB") == [len(LINES)]
        assert self.sizes(generator, batch_size=4, memory="1MiB") == [1] * len(LINES)

    def test_tokens_of_a_batch_count_padding(self, generator_of):
        generator = generator_of("a.pt", *PAIR)
        lengths = {number: len(line.split()) + 1 for number, line in enumerate(LINES)}
        batches = list(generator.batches(enumerate(LINES), max_tokens=24))
        assert len(batches) > 3
        for batch in batches:
            assert len(batch) * max(lengths[result.number] for result in batch) <= 24

    def test_options_of_fairseq(self, generator_of):
        assert self.sizes(generator_of("a.pt", *PAIR, "--batch-size", "5")) == [5, 5, 1]
        generator = generator_of("a.pt", *PAIR, "--buffer-size", "3", "--batch-size", "2")
        assert self.sizes(generator) == [2, 1, 2, 1, 2, 1, 2]


class TestCommandLine:
    def refused(self, models, *arguments: str) -> str:
        with pytest.raises(FairseqElError) as error:
            Generator.from_arguments([str(models), *map(str, arguments), "--cpu"])
        assert "\n" not in str(error.value).partition("\n  - ")[0]
        return str(error.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--nonsense"], "unrecognized arguments: --nonsense"),
            (["--beam", "x"], "argument --beam: invalid int value: 'x'"),
            (["--beam", "0"], "--beam must be at least 1; it is 0"),
            (["--task", "nonsense"], "argument --task: invalid choice: 'nonsense'"),
            (["--prefix-size", "1"], "--prefix-size needs targets, and the input has sources only; it is 1"),
            (["--num-shards", "2"], "--num-shards is for splits of preprocessed data; it is 2"),
            (["--skip-invalid-size-inputs-valid-test"], "would leave lines out"),
            (["--model-overrides", "x"], "--model-overrides must be a dictionary as in Python"),
            (["--bpe", "sentencepiece"], "--sentencepiece-model must be given with this --bpe"),
            (["--user-dir", "nowhere"], "--user-dir must be a directory with a Python package; there is no"),
            (["--user-dir"], "argument --user-dir: expected one argument"),
            (["--sampling"], "--nbest must be equal to --beam with --sampling"),
            (["--replace-unk", ""], "--replace-unk needs --print-alignment"),
            (["--score-reference"], "--score-reference needs references"),
            (["--checkpoint-shard-count", "2"], "--task must be given with --checkpoint-shard-count"),
        ],
    )
    def test_bad_options(self, options, message, models):
        assert message in self.refused(models, "--path", models / "a.pt", *PAIR, *options)

    def test_bad_files(self, models, tmp_path):
        (tmp_path / "text.pt").write_text("text")
        assert "--path must name a checkpoint" in self.refused(models, *PAIR)
        assert "--path must be a checkpoint that fairseq wrote; " in self.refused(models, "--path", models / "c.pt")
        for task in ([], ["--task", "translation"]):
            said = self.refused(models, "--path", tmp_path / "text.pt", *PAIR, *task)
            assert said.startswith(f"The checkpoint {tmp_path / 'text.pt'} could not be read")
        assert "dict.bb.txt" in str(self.missing(tmp_path, models))

    def missing(self, tmp_path, models) -> BaseException:
        (tmp_path / "dict.aa.txt").write_bytes((models / "dict.aa.txt").read_bytes())
        with pytest.raises((FileNotFoundError, FairseqElError)) as error:
            Generator.from_arguments([str(tmp_path), "--path", str(models / "a.pt"), *PAIR, "--cpu"])
        return error.value

    def test_a_task_of_the_other_kind(self, models):
        assert "The checkpoint is a language model" in self.refused(
            models, "--path", models / "lm.pt", "--task", "translation", *PAIR
        )

    def test_a_stock_task_becomes_the_one_of_this_package(self, models):
        arguments = [str(models), "--path", str(models / "a.pt"), *PAIR, "--cpu", "--task"]
        for name in ("translation", "el_translation"):
            assert isinstance(Generator.from_arguments([*arguments, name]).loaded.task, ELTranslationTask)

    def test_the_command_line_of_this_process_is_not_looked_at(self, models, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["program", "--user-dir", "nowhere", "--task", "nothing"])
        Generator.from_arguments([str(models), "--path", str(models / "a.pt"), *PAIR, "--cpu"])
        assert sys.argv == ["program", "--user-dir", "nowhere", "--task", "nothing"]

    def test_a_user_directory_beside_this_package(self, models, tmp_path):
        """An architecture of the user's own, which fairseq's one --user-dir would leave no place for."""
        from tiny_data import save_checkpoint

        package = tmp_path / "my_architectures"
        package.mkdir()
        (package / "__init__.py").write_text(
            "from fairseq.models import register_model_architecture\n"
            "from fairseq.models.transformer import base_architecture\n\n"
            "@register_model_architecture('transformer', 'my_transformer')\n"
            "def my_transformer(args):\n    base_architecture(args)\n"
        )
        before = list(sys.path)
        try:
            Generator.from_arguments(
                [str(models), "--path", str(models / "a.pt"), *PAIR, "--cpu", "--user-dir", str(package)]
            )
            path = save_checkpoint(tmp_path / "my.pt", "my_transformer", seed=1, source_lang="aa", target_lang="bb")
            arguments = [str(models), "--path", str(path), "--cpu", "--user-dir", str(package)]
            generator = Generator.from_arguments(arguments)
        finally:
            sys.path[:] = before
        assert fairseq_el.el_attention_enabled(generator.loaded.models)
        assert len(list(generator.stream(LINES))) == len(LINES)
