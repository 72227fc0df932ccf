"""Models that are not Transformers: the EL generator decodes them exactly as fairseq's own."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import fairseq
import pytest
import torch
from fairseq.models import (
    BaseFairseqModel,
    FairseqDecoder,
    FairseqEncoder,
    FairseqEncoderDecoderModel,
    FairseqIncrementalDecoder,
)
from fairseq.models.transformer import TransformerEncoder
from fairseq.sequence_generator import SequenceGenerator, SequenceGeneratorWithAlignment
from tiny import batch, build_language_model, build_model, dictionary

import fairseq_el
from fairseq_el.errors import FairseqElError
from fairseq_el.generation import ELSequenceGenerator, ELSequenceGeneratorWithAlignment

WORDS = dictionary(40)
SAMPLE_LENGTHS = [5, 2, 7, 1]


def logits_of(tokens: torch.Tensor, source: Optional[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Some function of the last two words and the source that no parameter has a part in. *Shape:* ``(rows, V)``."""
    words = torch.arange(len(WORDS), dtype=dtype)
    seed = tokens[:, -1:].to(dtype) * 0.7 + tokens[:, -2:-1].sum(dim=1, keepdim=True).to(dtype) * 0.3
    if source is not None:
        seed = seed + source.to(dtype).flatten(1).sum(dim=1, keepdim=True) * 0.1
    return 3 * torch.sin(seed * (words + 1) * 0.37) + torch.cos(words * seed)


class NamedOut(NamedTuple):
    encoder_out: torch.Tensor


class Encoder(FairseqEncoder):
    """What kinds of encoders give: a dictionary or a tuple, as long as the source or not, or nothing."""

    def __init__(self, gives: str):
        super().__init__(WORDS)
        self.gives = gives

    def forward(self, src_tokens: Any = None, src_lengths: Any = None, source: Any = None, **unused: Any) -> Any:
        read = src_tokens if source is None else source
        if self.gives == "half as long":
            read = read[:, ::2]
        return {"tuple": NamedOut(read), "nothing": None}.get(self.gives, {"encoder_out": [read]})

    def reorder_encoder_out(self, encoder_out: Any, new_order: torch.Tensor) -> Any:
        if encoder_out is None:
            return None
        if isinstance(encoder_out, NamedOut):
            return NamedOut(encoder_out.encoder_out.index_select(0, new_order))
        return {"encoder_out": [encoder_out["encoder_out"][0].index_select(0, new_order)]}


class Extra(dict):
    """What some models return in the place of a dictionary."""


def decode(tokens: torch.Tensor, encoder_out: Any, dtype: torch.dtype, attention: str) -> Any:
    if isinstance(encoder_out, NamedOut):
        source = encoder_out.encoder_out
    else:
        source = None if encoder_out is None else encoder_out["encoder_out"][0]
    steps = range(1, tokens.size(1) + 1)
    logits = torch.stack([logits_of(tokens[:, :step], source, dtype) for step in steps], dim=1)
    if source is None or attention == "none":
        return logits, None
    shape = (len(tokens), len(steps), source.size(1))
    attn = torch.arange(shape[0] * shape[1] * shape[2]).view(shape).to(dtype)
    kinds = {"tensor": attn, "list": {"attn": [attn]}, "of a dict": Extra(attn=attn), "empty": {"attn": None}}
    return logits, kinds[attention]


class StepDecoder(FairseqIncrementalDecoder):
    def __init__(self, dtype: torch.dtype = torch.float32, attention: str = "list"):
        super().__init__(WORDS)
        self.dtype, self.attention = dtype, attention

    def forward(self, tokens: Any, encoder_out: Any = None, incremental_state: Any = None) -> Any:
        logits, extra = decode(tokens, encoder_out, self.dtype, self.attention)
        return (logits if incremental_state is None else logits[:, -1:]), extra

    def max_positions(self) -> int:
        return 30


class WholeDecoder(FairseqDecoder):
    """It keeps no state, and its log-probabilities depend on what it returns beside its logits."""

    def __init__(self) -> None:
        super().__init__(WORDS)

    def forward(self, tokens: Any, encoder_out: Any = None) -> Any:
        logits, _ = decode(tokens, encoder_out, torch.float32, "none")
        return logits, {"attn": None, "bonus": logits[:, -1:].sin()}

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> torch.Tensor:
        return torch.log_softmax(net_output[0] + net_output[1]["bonus"], dim=-1)

    def max_positions(self) -> int:
        return 30


class WithoutDecoder(BaseFairseqModel):
    """Neither an encoder nor a decoder: a function of the words so far."""

    def forward(self, tokens: torch.Tensor) -> Any:
        return decode(tokens, None, torch.float32, "none")

    def get_normalized_probs(self, net_output: Any, log_probs: bool, sample: Any = None) -> torch.Tensor:
        return torch.log_softmax(net_output[0], dim=-1)

    def max_decoder_positions(self) -> int:
        return 30


class Ensemble(FairseqEncoderDecoderModel):
    """One model that holds a list of others, under the name that hub interfaces have for theirs."""

    def __init__(self, models: list[Any]):
        super().__init__(Encoder("dictionary"), StepDecoder())
        self.models = torch.nn.ModuleList(models)


def of(encoder: str, decoder: Any) -> Any:
    return FairseqEncoderDecoderModel(Encoder(encoder), decoder)


CONVOLUTIONS = {"dropout": 0.1, "encoder_layers": "[(8, 3)]", "decoder_layers": "[(8, 3)]"}
MODELS = {
    "no parameters": lambda: of("dictionary", StepDecoder()),
    "encoder gives a tuple": lambda: of("tuple", StepDecoder()),
    "encoder gives fewer positions": lambda: of("half as long", StepDecoder()),
    "encoder gives nothing": lambda: of("nothing", StepDecoder()),
    "decoder without state": lambda: of("dictionary", WholeDecoder()),
    "no encoder": lambda: WithoutDecoder(),
    "16 bits, where many scores are equal": lambda: of("dictionary", StepDecoder(torch.bfloat16)),
    "64 bits": lambda: of("dictionary", StepDecoder(torch.float64)),
    **{
        f"attention: {kind}": lambda kind=kind: of("dictionary", StepDecoder(attention=kind))
        for kind in ("none", "tensor", "of a dict", "empty")
    },
    "holds a list of EL models": lambda: Ensemble([el_model()]),
    "holds an empty list": lambda: Ensemble([]),
    "LSTM": lambda: build_model("lstm", WORDS, 1, criterion="cross_entropy", encoder_hidden_size=8, dropout=0.1),
    "convolutions": lambda: build_model("fconv_iwslt_de_en", WORDS, 1, torch.float32, **CONVOLUTIONS),
}


def el_model(seed: int = 3, **options: Any) -> Any:
    return fairseq_el.enable_el_attention(build_model("transformer", WORDS, seed, **options))


def decoded(generator_class: Any, models: list[Any], sample: Any, **options: Any) -> list:
    torch.manual_seed(1)
    generator = generator_class(models, WORDS, **{"beam_size": 3, "max_len_b": 9, **options})
    return [
        [(h["tokens"].tolist(), h["score"], h["positional_scores"], h["attention"]) for h in hypotheses]
        for hypotheses in generator.generate(models, sample)
    ]


def assert_same(mine: list, theirs: list, exact: bool = True) -> None:
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-6, "atol": 1e-6}
    for my_hypotheses, their_hypotheses in zip(mine, theirs):
        assert [h[0] for h in my_hypotheses] == [h[0] for h in their_hypotheses]
        for my, their in zip(my_hypotheses, their_hypotheses):
            for found, expected in zip(my[1:], their[1:]):
                torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.7, "unk_penalty": 1.0, "min_len": 3}, {"beam_size": 12}, {"beam_size": 1}],
    ids=["plain", "options", "more beams than half of the words", "one beam"],
)
def test_as_stock_to_the_last_bit(name, options):
    model, sample = MODELS[name](), batch(WORDS, SAMPLE_LENGTHS, seed=3)
    theirs = decoded(SequenceGenerator, [model], sample, **options)
    assert_same(decoded(ELSequenceGenerator, [model], sample, **options), theirs)
    assert any(len(h[0]) > 1 for hypotheses in theirs for h in hypotheses)


def test_a_source_that_is_not_words():
    """Speech: features, read by an encoder that halves their number, with and without padding."""
    model = of("half as long", StepDecoder())
    source = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(1))
    padding = torch.arange(8) >= torch.tensor([[8], [5], [2]])
    for net_input in ({"source": source, "padding_mask": padding}, {"source": source, "padding_mask": None}):
        sample = {"net_input": net_input}
        options = {"beam_size": 1, "max_len_b": 1}  # longer, stock can't drop sentences that have no lengths
        theirs = decoded(SequenceGenerator, [model], sample, **options)
        assert_same(decoded(ELSequenceGenerator, [model], sample, **options), theirs)


@pytest.mark.parametrize("name", ["no parameters", "decoder without state", "64 bits", "LSTM", "convolutions"])
@pytest.mark.parametrize("el_first", [True, False])
@pytest.mark.parametrize("backend", ["el", "auto"])
def test_in_an_ensemble_with_an_el_model(name, el_first, backend):
    stock, transformer = MODELS[name](), build_model("transformer", WORDS, 3)
    sample = batch(WORDS, SAMPLE_LENGTHS, seed=3)
    models = [transformer, stock] if el_first else [stock, transformer]
    theirs = decoded(SequenceGenerator, models, sample)
    fairseq_el.enable_el_attention(transformer, backend=backend)
    assert_same(decoded(ELSequenceGenerator, models, sample), theirs, exact=False)


def test_with_alignment():
    model, sample = MODELS["no parameters"](), batch(WORDS, SAMPLE_LENGTHS, seed=3)
    theirs, mine = (
        [
            [(h["tokens"].tolist(), h["alignment"]) for h in hypotheses]
            for hypotheses in kind([model], WORDS, beam_size=3, max_len_b=6).generate([model], sample)
        ]
        for kind in (SequenceGeneratorWithAlignment, ELSequenceGeneratorWithAlignment)
    )
    assert mine == theirs


@pytest.mark.skipif(fairseq.__version__.startswith("0.12.2"), reason="fairseq 0.12.2 itself asks for the first layer")
@pytest.mark.parametrize("backend", ["el", "shared-kv", "auto"])
def test_an_encoder_without_layers(backend):
    """Its output is the embeddings; the backend is chosen by the decoder's numbers."""
    model, sample = build_model("transformer", WORDS, 3, encoder_layers=0), batch(WORDS, SAMPLE_LENGTHS, seed=3)
    theirs = decoded(SequenceGenerator, [model], sample)
    fairseq_el.enable_el_attention(model, backend=backend)
    assert_same(decoded(ELSequenceGenerator, [model], sample), theirs, exact=False)


class OwnLength(TransformerEncoder):
    """A TransformerEncoder that shortens its output, or cuts the padding that all sentences of a batch have."""

    cuts_padding = False

    def forward(self, src_tokens: Any, src_lengths: Any = None, *more: Any, **options: Any) -> Any:
        if self.cuts_padding:
            src_tokens = src_tokens[:, : int(src_tokens.ne(WORDS.pad()).sum(dim=1).max())]
        out = super().forward(src_tokens, src_lengths, *more, **options)
        kept = slice(None) if self.cuts_padding else slice(None, None, 2)
        masks = [mask[:, kept] for mask in out["encoder_padding_mask"] if mask is not None and mask.any()]
        return {**out, "encoder_out": [out["encoder_out"][0][kept]], "encoder_padding_mask": masks}


@pytest.mark.parametrize("cuts_padding", [False, True])
@pytest.mark.parametrize("encoder_tokens", [1, 8, 2048])
@pytest.mark.parametrize("backend", ["el", "shared-kv", "auto"])
def test_an_el_model_whose_encoder_gives_another_length(cuts_padding, encoder_tokens, backend):
    """In parts of the batch too, in some of which nothing is padded."""
    model = build_model("transformer", WORDS, 3)
    model.encoder.__class__ = type("Own", (OwnLength,), {"cuts_padding": cuts_padding})
    sample = batch(WORDS, [7, 2, 6, 1, 7], seed=3, left_pad_source=False)
    model.encoder.forward_torchscript = lambda net_input: model.encoder.forward(net_input["src_tokens"])
    theirs = decoded(SequenceGenerator, [model], sample)
    fairseq_el.enable_el_attention(model, backend=backend)

    class InParts(ELSequenceGenerator):
        pass

    InParts.encoder_tokens = encoder_tokens
    mine = decoded(InParts, [model], sample)
    assert [[h[:1] for h in hypotheses] for hypotheses in mine] == [[h[:1] for h in hyps] for hyps in theirs]


def test_torchscript_compiles_stock_s_generator():
    """As for fairseq's own generator, which needs a torch that fairseq is scriptable with."""
    model, sample = build_language_model(WORDS, 3, torch.float32), batch(WORDS, [5, 5], seed=3)
    generator = ELSequenceGenerator([model], WORDS, beam_size=3, max_len_b=8)
    prepared = generator.__prepare_scriptable__()
    assert type(prepared) is SequenceGenerator
    for mine, theirs in zip(generator.generate([model], sample), prepared.generate([model], sample)):
        assert [h["tokens"].tolist() for h in mine] == [h["tokens"].tolist() for h in theirs]
    fairseq_el.enable_el_attention(model)
    with pytest.raises(FairseqElError, match=r"TorchScript .* TransformerLanguageModel\. .*disable_el_attention"):
        torch.jit.script(generator)
