"""Options for models that came from transformers, and limits of what follows a prompt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny import build_language_model, dictionary

from fairseq_el import enable_el_attention
from fairseq_el.errors import OptionError
from fairseq_el.generation import ELSequenceGenerator, TransformersRules
from fairseq_el.tasks.el_options import ELOptions, transformers_rules
from fairseq_el.tasks.language_modeling import split_first
from fairseq_el.tasks.source_template import source_template


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"el_forced_first": 20},
            "--el-forced-first must be the number of one of the dictionary's 20 symbols, or -1; it",
        ),
        ({"el_forced_last": -2}, "--el-forced-last must be .*; it is -2"),
        (
            {"el_forbidden": "7,x"},
            "--el-forbidden must have numbers of the dictionary's 20 symbols, as 7,8.9; it has 'x'",
        ),
        ({"el_forbidden": "7+99999999999"}, "--el-forbidden must have numbers"),
        ({"el_forbidden": "\u0663"}, "--el-forbidden must have numbers"),  # a digit, but not one of ours
        ({"el_forbidden_first": "7+8"}, "--el-forbidden-first has single symbols; it is 7.8"),
        ({"el_search": "fairseq", "el_forbidden": "7"}, "need --el-search transformers"),
    ],
)
def test_options_that_make_no_sense(options, message):
    given = {**vars(ELOptions()), "el_search": "transformers", **options}
    with pytest.raises(OptionError, match=message):
        transformers_rules(SimpleNamespace(**given), {}.get, 20, False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lm_path", "yes"),
        ("print_alignment", "hard"),
        ("retain_dropout", True),
        ("match_source_len", True),
        # Other searches, which would leave out what the model forbids or forces
        ("sampling", True),
        ("constraints", "ordered"),
        ("diverse_beam_groups", 5),
        ("diversity_rate", 0.5),
    ],
)
def test_options_that_do_not_go_with_it(name, value):
    options = SimpleNamespace(**{**vars(ELOptions()), "el_search": "transformers"})
    message = f"--{name.replace('_', '-')} does not go with --el-search transformers"
    with pytest.raises(OptionError, match=message):
        transformers_rules(options, {name: value}.get, 20, False)


def test_other_searches_that_are_not_asked_for():
    options = SimpleNamespace(**{**vars(ELOptions()), "el_search": "transformers"})
    given = {"sampling": False, "constraints": None, "diverse_beam_groups": -1, "diversity_rate": -1.0}
    assert transformers_rules(options, given.get, 20, False) == TransformersRules()


@pytest.mark.parametrize("text", ["0,2", "X,X", "0,X,20", "0 X 2", "0,X,-1", ","])
def test_templates_that_are_none(text):
    with pytest.raises(OptionError, match="--el-source-template must have one X, the text, among numbers"):
        source_template(text, 20, 2)


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ("0,X,2", None, [0, 7, 8, 2]),
        ("X", None, [7, 8]),
        ("5,6,X,2,9", None, [5, 6, 7, 8, 2, 9]),
        ("0,X,2", 3, [0, 7, 2]),
    ],
)
def test_templates(text, longest, expected):
    template = source_template(text, 20, 2)
    assert template is not None
    assert template.apply(torch.tensor([7, 8, 2]), longest).tolist() == expected
    assert template.added == (len(expected) - 3 if longest is None else 1)


def test_prompts_without_words_begin_with_the_eos():
    first, rest, has_words = split_first(torch.tensor([[5, 6, 1], [1, 1, 1]]), pad=1, eos=2)
    assert first.tolist() == [5, 2] and rest.tolist() == [[6, 1], [1, 1]] and has_words.tolist() == [True, False]
    first, rest, _ = split_first(torch.zeros(2, 0).long(), pad=1, eos=2)
    assert first.tolist() == [2, 2] and rest.shape == (2, 0)


@pytest.mark.parametrize("rules", [None, TransformersRules(continues_prompts=True)], ids=["fairseq", "transformers"])
@pytest.mark.parametrize("beam_size", [1, 3])
def test_new_tokens_are_counted_after_each_prompt(rules, beam_size):
    """Prompts of 2, 12 and 5 words in one batch: as if each were alone; exactly so many tokens if no eos may come."""
    words = dictionary(16)
    model = build_language_model(words, seed=3)
    enable_el_attention(model)
    generator = ELSequenceGenerator([model], words, beam_size=beam_size)
    generator.transformers_rules, generator.min_new_tokens, generator.max_new_tokens = rules, 6, 7
    lengths = [2, 12, 5]
    prompts = torch.full((3, 12), words.pad())
    for row, length in enumerate(lengths):
        prompts[row, :length] = torch.randint(4, 20, (length,), generator=torch.Generator().manual_seed(row))
    found = decode(generator, model, prompts)
    for row, length in enumerate(lengths):
        (alone,) = decode(generator, model, prompts[row : row + 1, :length])
        assert found[row][0]["tokens"].tolist() == alone[0]["tokens"].tolist()
        assert len(found[row][0]["tokens"]) == length + 7


def decode(generator: ELSequenceGenerator, model: torch.nn.Module, prompts: torch.Tensor) -> list:
    source = torch.nn.functional.pad(prompts, (1, 0), value=2)
    lengths = source.ne(1).sum(dim=1)
    sample = {"id": torch.arange(len(source)), "net_input": {"src_tokens": source, "src_lengths": lengths}}
    return generator.generate([model], sample, prefix_tokens=prompts, bos_token=2)
