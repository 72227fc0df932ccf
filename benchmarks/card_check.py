"""Separates the suspects of an illegal memory access on a card: each stage uses one part more than the one before.

    benchmarks/card_check.sh                             # all stages, each in a process of its own
    python benchmarks/card_check.py unfused --few

Prints one line of JSON for each finding, and ends with status 1 if one is wrong. "On a card" in docs/benchmarks.md
says what was seen. Stages:

- env: the card, torch, and whether the card reads the host's pageable memory by itself.
- copies: tensors of the host that are freed at once. Do their copies arrive whole?
- products: torch and cuBLAS alone, batches of small products in 16 bits.
- unfused: torch alone, its unfused attention under a mask with heads of 4 numbers.
- attention: kv_attention of this package, all widths of heads and many lengths.
- decode: whole decoders with heads of 4 numbers.
- bounds: the same, every index of gather, scatter and embeddings checked before it is used.
- extension: fairseq's CUDA extension for n-grams, if it is compiled, with as many rows of tokens as of scores.
- probe: the same as fairseq itself tries it, with 2 rows of tokens for 8 of scores. It is known to read behind them.

Decoders of the other stages do not use that extension.

Run under compute-sanitizer with PYTORCH_NO_CUDA_MEMORY_CACHING=1, every read and write out of a tensor is reported;
--few is for that.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import torch
from common import Arguments, add_device, make_parser, run_benchmark
from fairseq import ngram_repeat_block
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_el.cli.options import device_of
from fairseq_el.cli.streams import write_line
from fairseq_el.errors import FairseqElError
from fairseq_el.generation import has_ngram_extension
from fairseq_el.measure import wait_for
from fairseq_el.ops import as_bias, kv_attention

Finding = Dict[str, Any]
_HELPERS = Path(__file__).resolve().parent.parent / "tests" / "helpers"
_FEW_LENGTHS = (1, 3, 15, 16, 17, 33, 64, 65, 97, 129)
_ALLOWED = 0.02  # of attention in 16 bits, against float64: outputs are around 1
_CUDA_ATTRIBUTES = (
    "cudaDevAttrPageableMemoryAccess",
    "cudaDevAttrPageableMemoryAccessUsesHostPageTables",
    "cudaDevAttrConcurrentManagedAccess",
)


def env(options: argparse.Namespace) -> Iterator[Finding]:
    yield {"torch": torch.__version__, "cuda": torch.version.cuda}
    if options.device == "cpu":
        return
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    yield {"card": torch.cuda.get_device_name(), "capability": capability, "kernels": torch.cuda.get_arch_list()}
    with contextlib.suppress(ImportError):
        from cuda.bindings import runtime

        for name in _CUDA_ATTRIBUTES:
            attribute = getattr(runtime.cudaDeviceAttr, name)
            yield {"attribute": name, "value": int(runtime.cudaDeviceGetAttribute(attribute, 0)[1])}


def copies(options: argparse.Namespace) -> Iterator[Finding]:
    """Wrong numbers, or a fault, would acquit all of this package."""
    libc = ctypes.CDLL(None)
    busy, wrong = torch.randn(1024, 1024, device=options.device), 0
    rounds = 100 if options.few else 2000
    for i in range(rounds):
        if i % 50 == 0:
            busy = (busy @ busy).tanh()  # something in the queue before the copy
        on_host = torch.full(((8, 64, 1000, 20_000, 300_000)[i % 5],), i, dtype=torch.long)
        copied = on_host.to(options.device, non_blocking=True)
        del on_host
        torch.full_like(copied, -1, device="cpu")  # where it was, likely
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
        wrong += int((copied != i).sum())
    yield {"copies": rounds, "wrong_numbers": wrong, "wrong": wrong > 0}


def products(options: argparse.Namespace) -> Iterator[Finding]:
    """The two products of unfused attention, (B, h, b, dh) x (B, h, dh, n) and back, by torch's batched product."""
    for head_dim in (4, 8, 64):
        worst = 0.0
        for length in _lengths(options):
            query, (key, _) = _query(options, length, head_dim), _pools(options, length, head_dim)
            scores = torch.matmul(query, key.transpose(2, 3))
            back = torch.matmul(scores * (1 / length), key)
            exact = torch.matmul(query.double(), key.double().transpose(2, 3))
            for mine, expected in ((scores, exact), (back, torch.matmul(scores.double() / length, key.double()))):
                size = expected.abs() + head_dim**0.5
                worst = max(worst, float(((mine.double() - expected).abs() / size).max().nan_to_num(float("inf"))))
        yield _judged({"head_dim": head_dim}, worst)


def unfused(options: argparse.Namespace) -> Iterator[Finding]:
    """torch's unfused attention, which the tests that ended in the fault alone reached before heads got zeros."""
    for head_dim in (4, 12):
        worst = 0.0
        for length in _lengths(options):
            query, (key, value) = _query(options, length, head_dim), _pools(options, length, head_dim)
            hidden = _hidden(options, length)
            bias = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
            bias = bias.masked_fill(hidden, float("-inf")).unsqueeze(1)
            with _no_cudnn():
                found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=head_dim**-0.5)
            worst = max(worst, _error(found, query, key, value, hidden))
        yield _judged({"head_dim": head_dim}, worst)


def attention(options: argparse.Namespace) -> Iterator[Finding]:
    for head_dim in (4, 8, 16, 64):
        worst = 0.0
        for length in _lengths(options):
            query, (key, value) = _query(options, length, head_dim), _pools(options, length, head_dim)
            for hidden in (None, _hidden(options, length)):
                mask = None if hidden is None else as_bias(hidden, query.dtype)
                found = kv_attention(query.transpose(1, 2), key, value, mask, torch.float32, head_dim**-0.5)
                worst = max(worst, _error(found.transpose(1, 2), query, key, value, hidden))
        yield _judged({"head_dim": head_dim}, worst)


def decode(options: argparse.Namespace) -> Iterator[Finding]:
    """Decoders of the tests that ended in the fault. Copies are as fairseq's, which does not wait for them."""
    if str(_HELPERS) not in sys.path:
        sys.path.insert(0, str(_HELPERS))
    from fairseq import utils
    from tiny import batch, build_language_model, build_model, dictionary

    from fairseq_el.decoding import enable_el_attention
    from fairseq_el.generation import ELSequenceGenerator

    words = dictionary()
    length, times = (12, 1) if options.few else (42, 10)
    for kind in ("transformer", "transformer_lm"):
        for self_attention in ("kv", "el"):
            for backend in ("el", "shared-kv"):
                is_decoder = kind == "transformer_lm"
                model = (build_language_model if is_decoder else _builder(build_model, kind))(words, 1, _dtype(options))
                enable_el_attention(model.to(options.device), backend=backend, self_attention=self_attention)
                generator = ELSequenceGenerator(
                    [model], words, beam_size=4, max_len_b=length, min_len=length, no_repeat_ngram_size=3, max_len=60
                )
                found = []
                for _ in range(times):
                    sample = batch(words, [9, 2, 12, 5, 7], seed=3)
                    if is_decoder:
                        sample["net_input"]["src_tokens"] = sample["net_input"]["src_tokens"][:, -1:]
                    sample = utils.apply_to_sample(lambda x: x.to(options.device, non_blocking=True), sample)
                    found.append(
                        [[h["tokens"].tolist() for h in hypos] for hypos in generator.generate([model], sample)]
                    )
                    wait_for(options.device)
                differing = sum(each != found[0] for each in found)
                way = {"model": kind, "self_attention": self_attention, "backend": backend}
                yield {**way, "calls": times, "differing": differing, "wrong": differing > 0}


def bounds(options: argparse.Namespace) -> Iterator[Finding]:
    """Needs no sanitizer: seconds."""
    with _IndexCheck() as check:
        yield from decode(options)
    yield {"checked": check.count, "out_of_range": check.wrong, "wrong": bool(check.wrong) or not check.count}


def extension(options: argparse.Namespace) -> Iterator[Finding]:
    if not _has_extension(options):
        yield {"left_out": "fairseq's CUDA extension for n-grams is not compiled, or there is no card"}
        return
    works = has_ngram_extension()
    wait_for(options.device)
    yield {"works": works, "wrong": not works}


def probe(options: argparse.Namespace) -> Iterator[Finding]:
    """First with tokens that have 6 more rows behind them, which shows what it reads and breaks nothing."""
    if not _has_extension(options):
        yield {"left_out": "fairseq's CUDA extension for n-grams is not compiled, or there is no card"}
        return
    yield read_behind(ngram_repeat_block.ngram_repeat_block_cuda.forward, options.device)
    usable = ngram_repeat_block.is_cuda_extension_usable()
    wait_for(options.device)
    yield {"called_by": "fairseq", "usable": usable}


def read_behind(forward: Callable[..., Tensor], device: str) -> Finding:
    """Calls an extension as fairseq's probe does. Rows of scores beyond those of tokens must not change."""
    storage = torch.full((8, 4), 9, device=device)  # of these words, the third repeats a bigram
    tokens = storage[:2]
    tokens.copy_(torch.tensor([[4, 4, 3, 2], [1, 2, 3, 4]]))
    scores = forward(tokens, torch.zeros(8, 12, device=device), 2, 3, 4, 3)
    changed = scores.isinf().any(1).nonzero().flatten().tolist()
    return {"rows_of_tokens": 2, "rows_that_it_changed": changed, "wrong": any(row >= 2 for row in changed)}


def _has_extension(options: argparse.Namespace) -> bool:
    return options.device == "cuda" and bool(ngram_repeat_block.EXTENSION_BUILT)


class _IndexCheck(TorchDispatchMode):
    """Looks at the indices of every gather, scatter, index_select and embedding before it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.wrong: list[Finding] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith(("aten.gather", "aten.scatter", "aten.index_select", "aten.embedding.")):
            in_rows = name.startswith("aten.embedding.")
            index, size = (args[1], args[0].size(0)) if in_rows else (args[2], args[0].size(args[1]))
            self.count += 1
            if index.numel():
                low, high = int(index.min()), int(index.max())
                if low < 0 or high >= size:
                    self.wrong.append({"operator": name, "low": low, "high": high, "size": size})
        return func(*args, **(kwargs or {}))


def _builder(build: Callable[..., Any], kind: str) -> Callable[..., Any]:
    return lambda words, seed, dtype: build(kind, words, seed, dtype)


def _dtype(options: argparse.Namespace) -> torch.dtype:
    return torch.float16 if options.device == "cuda" else torch.bfloat16  # old torch has no fp16 on a CPU


def _lengths(options: argparse.Namespace) -> Any:
    return _FEW_LENGTHS if options.few else range(1, 200)


def _query(options: argparse.Namespace, length: int, head_dim: int) -> Tensor:
    """``(B, h, b, dh)``: 5 sentences of 4 beams, 4 heads."""
    torch.manual_seed(length)
    return torch.randn(5, 4, 4, head_dim, device=options.device).to(_dtype(options))


def _pools(options: argparse.Namespace, length: int, head_dim: int) -> Any:
    """Keys and values, ``(B, h, n, dh)``: slices of storage with more room, as a decode state's."""
    room = torch.randn(2, 5, 4, length + 13, head_dim, device=options.device).to(_dtype(options))
    return room[:, :, :, :length]


def _hidden(options: argparse.Namespace, length: int) -> Tensor:
    """True where a position is hidden, ``(B, b, n)``; of long ones whole blocks, as padding on the left makes them."""
    hidden = torch.rand(5, 4, length, device=options.device) < 0.7
    if length > 64:
        hidden[0, :, :64] = True
    hidden[:, :, -1] = False
    return hidden


def _error(found: Tensor, query: Tensor, key: Tensor, value: Tensor, hidden: Any) -> float:
    """The largest difference from attention in float64; not a number where there is none."""
    scores = torch.matmul(query.double(), key.double().transpose(2, 3)) * query.size(-1) ** -0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden.unsqueeze(1), float("-inf"))
    exact = torch.matmul(scores.softmax(-1), value.double())
    return float((found.double() - exact).abs().max().nan_to_num(float("inf")))


def _judged(finding: Finding, worst: float) -> Finding:
    return {
        **finding,
        "worst_error": round(worst, 5) if worst < float("inf") else "nan",
        "wrong": not worst <= _ALLOWED,
    }


@contextlib.contextmanager
def _no_cudnn() -> Iterator[None]:
    """Without cuDNN's attention, as :func:`kv_attention` calls torch's."""
    enabled = getattr(torch.backends.cuda, "cudnn_sdp_enabled", lambda: False)()
    if enabled:
        torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        if enabled:
            torch.backends.cuda.enable_cudnn_sdp(True)


STAGES: Dict[str, Callable[[argparse.Namespace], Iterator[Finding]]] = {
    stage.__name__: stage for stage in (env, copies, products, unfused, attention, decode, bounds, extension, probe)
}


def check(options: argparse.Namespace) -> None:
    """
    Raises:
        FairseqElError: a finding is wrong; all are printed before.
    """
    options.device = device_of(options.device)
    wrong = 0
    for finding in STAGES[options.stage](options):
        wrong += bool(finding.get("wrong"))
        write_line(json.dumps({"stage": options.stage, **finding}))
        sys.stdout.flush()
    if wrong:
        raise FairseqElError(f"stage {options.stage}: {wrong} findings are wrong")


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("card_check.py", __doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--few", action="store_true", help="few lengths and steps, for compute-sanitizer")
    add_device(parser)
    return run_benchmark(parser, check, arguments)


if __name__ == "__main__":
    sys.exit(main())
