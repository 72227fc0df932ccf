"""Results in any order, text in the order of the input, and memory that does not grow with either."""

from __future__ import annotations

import contextlib
import random
import tracemalloc

import pytest
import tiny_jobs
from tiny_jobs import expected, result_of

from fairseq_el.jobs import Hypothesis, Journal, Result
from fairseq_el.jobs.ordered_output import OrderedOutput
from fairseq_el.jobs.run_file import write_run

KIB = 1024


def orders(count: int):
    """Orders in which results may come, by name."""
    chance = random.Random(0)
    numbers = list(range(count))
    for seed in range(10):
        yield f"shuffled {seed}", chance.sample(numbers, count)
        window = sorted(numbers, key=lambda number: (number // 16, chance.random()))
        yield f"windows {seed}", window
    yield "in order", numbers
    yield "backwards", numbers[::-1]
    yield "the first one last", [*numbers[1:], 0]


def store_and_output(limit: int):
    """An output whose results are read back from a dictionary, as from a journal."""
    stored, chunks = {}, []
    return stored, chunks, OrderedOutput(chunks.append, "text", stored.get, limit)


@pytest.mark.parametrize("limit", [0, KIB, 10**9])
def test_any_order_gives_the_order_of_the_input(limit):
    for name, order in orders(100):
        stored, chunks, output = store_and_output(limit)
        for done, number in enumerate(order, start=1):
            stored[number] = result_of(number)
            output.put([stored[number]])
            assert output.in_memory <= limit
            first_missing = next(i for i in range(101) if i not in stored)
            assert b"".join(chunks) == expected(first_missing) and output.next == first_missing, (name, done)
        assert output.in_memory == 0 and output.num_in_memory == 0


def test_without_a_journal_all_is_kept_in_memory():
    for name, order in orders(100):
        chunks = []
        output = OrderedOutput(chunks.append, "text", None, limit=0)
        for number in order:
            output.put([result_of(number)])
        assert b"".join(chunks) == expected(100), name


def test_a_second_result_for_a_line_does_nothing():
    chunks = []
    output = OrderedOutput(chunks.append, "text")
    for number in (1, 1, 0, 0, 1):
        output.put([result_of(number)])
    assert b"".join(chunks) == expected(2) and output.next == 2


def test_a_journal_that_has_results_is_written_first():
    stored, chunks, output = store_and_output(KIB)
    stored.update({number: result_of(number) for number in range(30) if number != 20})
    output.advance()
    assert b"".join(chunks) == expected(20)
    output.put([result_of(20)])
    assert b"".join(chunks) == expected(30)


def test_much_is_written_in_pieces():
    stored, chunks, output = store_and_output(0)
    texts = {number: Hypothesis("x" * 10_000, "x", -1.0, (-1.0,)) for number in range(100)}
    stored.update({number: Result(number, "", (hypothesis,)) for number, hypothesis in texts.items()})
    output.advance()
    assert len(b"".join(chunks)) == 100 * 10_001 and max(map(len, chunks)) < 80_000


def test_results_of_a_batch_are_not_read_back():
    output = OrderedOutput(lambda content: None, "text", {}.get)
    output.put([result_of(number) for number in (2, 1, 0)])
    assert output.next == 3


@pytest.mark.long
def test_memory_for_100000_results(tmp_path):
    """Twelve bytes for each line, and no more, in the worst order: all results wait for the first line."""
    count, limit = 100_000, 64 * KIB
    tiny_jobs.write_input(tmp_path / "in.txt", 1)
    write_run(tmp_path, tiny_jobs.run_of(tmp_path / "in.txt"), None)
    lengths = []
    with contextlib.closing(Journal(tmp_path)) as journal:
        output = OrderedOutput(lambda content: lengths.append(len(content)), "text", journal.result, limit)
        tracemalloc.start()
        for end in range(count, 0, -1000):
            output.put(journal.append([Result(number, "", ()) for number in range(end - 1000, end)]))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert sum(lengths) == output.next == count
    assert peak < 24 * count + 20 * limit  # the index may have room for twice as many lines
