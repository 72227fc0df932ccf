"""Searches on a card that is not there: tensors without numbers, and counts of what would be launched."""

from __future__ import annotations

import contextlib
import copy
from typing import Any, Iterator, NamedTuple

import torch
from tiny import build_language_model, build_model, dictionary
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fairseq_el
from fairseq_el.decoding import SharedEncoderOut, StaticState, static_state
from fairseq_el.generation import ELSequenceGenerator
from fairseq_el.generation.hypotheses import ending
from fairseq_el.generation.reference_step import ReferenceStep
from fairseq_el.generation.rules import LengthLimits
from fairseq_el.generation.static_step import StaticStep

BART_LARGE = {
    **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim"), 1024),
    **dict.fromkeys(("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 4096),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 16),
    **dict.fromkeys(("max_source_positions", "max_target_positions"), 1024),
    "encoder_layers": 1,  # of which no step knows
    "decoder_layers": 12,
    "activation_fn": "gelu",
    **dict.fromkeys(("layernorm_embedding", "share_decoder_input_output_embed"), True),
}
# Operators that only look at their argument in another way, or allocate.
LAUNCH_NOTHING = {
    *("view", "_unsafe_view", "_reshape_alias", "alias", "as_strided", "detach", "diagonal", "expand", "permute"),
    *("select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unsqueeze", "chunk"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_local_scalar_dense"),
}


class Search(NamedTuple):
    """A search of which the first words have been read, and its steps in both ways."""

    present: ReferenceStep
    in_place: StaticStep
    state: StaticState
    eos: int

    def present_step(self, step: int) -> None:
        """All that the loop has the device do in a step."""
        found = self.present.candidates(step)
        self.present.advance(step, found, ending(found, self.present.beams.ignore, self.eos), None)


class Launches(TorchDispatchMode):
    """Lists the operators that launch something on a device, each with the shapes of its arguments.

    Fused attention is one of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []
        self._functions = _FusedIsOne(self)

    def __enter__(self) -> Launches:
        self._functions.__enter__()
        return super().__enter__()

    def __exit__(self, *given: Any) -> None:
        super().__exit__(*given)
        self._functions.__exit__(*given)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in LAUNCH_NOTHING:
            self.found.append((str(func), [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]))
        return func(*args, **(kwargs or {}))


class _FusedIsOne(TorchFunctionMode):
    def __init__(self, launches: Launches):
        super().__init__()
        self._launches = launches

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self._launches.found.append(("attention", [tuple(a.shape) for a in args]))
        query = args[0].transpose(1, 2)  # (B, b, h, dh): the layout in which a card's kernels write
        return torch.empty(query.shape, dtype=query.dtype, device=query.device).transpose(1, 2)


@contextlib.contextmanager
def fake_card() -> Iterator[torch.device]:
    """A device whose tensors have no numbers. Whatever would wait for a number raises an error.

    A CUDA build of torch claims to have a card. Others have the device meta, on which all code for cards runs as well.
    """
    if torch.version.cuda is None:
        yield torch.device("meta")
    else:
        with FakeTensorMode():
            yield torch.device("cuda")


def fake_search(
    device: torch.device,
    architecture: str,
    backend: str = "el",
    self_attention: str = "kv",
    *,
    num_sentences: int = 3,
    src_len: int = 7,
    num_words: int = 16,
    padded: bool = True,
    dtype: torch.dtype = torch.float16,
    sizes: Any = None,
    limits: Any = None,
    **options: Any,
) -> Search:
    """A search on a device, within :func:`fake_card`. It is at its second word.

    Args:
        limits: words that each sentence must and may have, ``(at least, at most)``, if these are not the same.
        options: of the generator.
    """
    words = dictionary(num_words)
    build = build_language_model if architecture == "transformer_lm" else build_model
    given = {} if architecture == "transformer_lm" else {"arch": architecture}
    with unset_fake_temporarily(), torch.device("meta" if sizes else "cpu"):
        model = build(words=words, seed=1, **given, decoder_learned_pos=True, **(sizes or {}))
    fairseq_el.enable_el_attention(model, backend, self_attention)
    _put_on(device, model, dtype)
    generator = ELSequenceGenerator([model], words, **{"beam_size": 4, "max_len_b": 20, **options})
    generator.record_attention = False
    sources = torch.full((num_sentences, src_len), 5, device=device)
    lengths = torch.full((num_sentences,), src_len, device=device)
    sample = {"net_input": {"src_tokens": sources, "src_lengths": lengths}}
    rules, batch, decoders = generator._prepared(sample, None, None, None)
    if limits is not None:
        at_least, at_most = zip(*limits)
        batch.limits = LengthLimits([0] * num_sentences, list(at_least), list(at_most), device)
    (decoder,) = decoders.models
    if architecture != "transformer_lm":
        memory = torch.zeros(num_sentences, src_len, model.encoder.embed_tokens.embedding_dim, device=device).to(dtype)
        mask = torch.zeros(num_sentences, src_len, dtype=torch.bool, device=device) if padded else None
        decoder._encoder_out = SharedEncoderOut(memory, mask, rules.beam_size)
    present = ReferenceStep(rules, batch, decoders)
    present.prompt = present._read_prompt()
    in_place_of = _second(present, rules, batch, decoders)
    return Search(present, *in_place_of, words.eos())


def _second(present: ReferenceStep, rules: Any, batch: Any, decoders: Any) -> Any:
    """The first word in the present way, and then a step in place over copies of what it leaves."""
    (decoder,) = decoders.models
    found = present.candidates(0)
    present.advance(0, found, ending(found, present.beams.ignore, rules.eos), None)
    other, beams = copy.copy(decoder.state), copy.copy(present.beams)
    other.tree = copy.copy(decoder.state.tree)
    keeps_keys = "KV" in type(decoder.model.decoder.layers[0].self_attn).__name__
    counted = static_state._most
    static_state._most = lambda living: decoder.state.tree.num_nodes  # the one wait, where storage begins
    try:
        state = StaticState(other, batch.max_len, keeps_keys, next(decoder.model.parameters()).dtype)
    finally:
        static_state._most = counted
    return StaticStep(rules, batch, decoders, beams, state, 1), state


def _put_on(device: torch.device, module: Any, dtype: torch.dtype) -> None:
    """Replaces every parameter and buffer by a fake one on the device; one that modules share, by one."""
    fake: dict[int, torch.Tensor] = {}
    for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
        owner, _, attribute = name.rpartition(".")
        if id(tensor) not in fake:
            of_dtype = dtype if tensor.is_floating_point() else tensor.dtype
            on_device = torch.empty(tensor.shape, device=device, dtype=of_dtype)
            is_parameter = isinstance(tensor, torch.nn.Parameter)
            fake[id(tensor)] = torch.nn.Parameter(on_device) if is_parameter else on_device
        setattr(module.get_submodule(owner), attribute, fake[id(tensor)])
    module.eval().requires_grad_(False)
