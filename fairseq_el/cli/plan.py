"""``fairseq-el plan``: how large a batch fits in memory."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
from tabulate import tabulate

from fairseq_el.cli.model_shapes import shape_of_architecture, shape_of_checkpoint
from fairseq_el.cli.options import positive, size, size_of_memory
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.report_files import check_plot
from fairseq_el.cli.streams import write_line
from fairseq_el.decoding import DEFAULT_BACKEND, DEFAULT_SELF_ATTENTION
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import FairseqElError
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS
from fairseq_el.ops import can_pack
from fairseq_el.planning import (
    DEFAULT_OVERHEAD,
    METHODS,
    Breakdown,
    ModelShape,
    Workload,
    default_node_share,
    free_memory,
    largest_batch,
    memory,
    torch_attention,
)
from fairseq_el.units import format_size

_DESCRIPTION = """\
Says how much memory decoding takes, and how large a batch fits, for stock fairseq and for EL-attention. It is
arithmetic: nothing is decoded, and with --arch no checkpoint is needed."""

_EXAMPLE = """\
example: BART-large, articles of 1,024 tokens, summaries of up to 140, on a card of 16 GiB:

  fairseq-el plan --arch bart_large --beam 4 --src-len 1024 --tgt-len 140 --dtype fp16 --memory 16GiB --device cuda

Then give fairseq-generate the --batch-size it prints. Every row is explained in docs/plan.md."""

_ROWS = (  # of the table: title, and which part of a breakdown
    ("weights", "weights"),
    ("weights packed for the processor", "packed"),
    ("process (--overhead)", "overhead"),
    ("sources, words, scores", "buffers"),
    ("a) reading sources or prompts", "encoding"),
    ("b) cross-attention state", "cross_state"),
    ("b) source's keys and values", "source_keys_values"),
    ("b) decoder state, expected", "decoder_state"),
    ("b) attention record", "attention_record"),
    ("b) logits, search, a step", "step"),
)


def add_parser(commands: Any) -> None:
    parser = add_command(commands, "plan", run, "how large a batch fits in memory", _DESCRIPTION, _EXAMPLE)
    model = parser.add_argument_group("the model (one of the two)")
    which = model.add_mutually_exclusive_group(required=True)
    which.add_argument("--path", metavar="FILE", help="a checkpoint, as for fairseq-generate")
    which.add_argument(
        "--arch", metavar="NAME", help="an architecture of fairseq, such as bart_large or transformer_lm_gpt"
    )
    model.add_argument(
        "--vocab-size",
        type=positive,
        metavar="N",
        help="words of the vocabulary, for --arch; not needed for bart_* (default: 50264) and for --path",
    )
    work = parser.add_argument_group("the batch")
    work.add_argument("--beam", type=positive, required=True, metavar="N", help="beam size")
    work.add_argument(
        "--src-len",
        type=positive,
        required=True,
        metavar="N",
        help="tokens of the longest source; for language models, of the longest prompt",
    )
    work.add_argument(
        "--tgt-len",
        type=positive,
        required=True,
        metavar="N",
        help="words to generate at most (--max-len-b), a prompt not counted",
    )
    work.add_argument("--dtype", choices=DTYPES, required=True, help="of weights and activations: fp16 for --fp16")
    work.add_argument(
        "--batch", type=positive, metavar="N", help="show this batch size instead of the largest that fits"
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument(
        "--memory",
        type=size_of_memory,
        metavar="SIZE",
        help="memory of the card: 16GiB, 16GB, 900MiB or bytes (default: what is free now, on the card if torch sees "
        "one, in RAM otherwise)",
    )
    machine.add_argument(
        "--overhead",
        type=size,
        default=DEFAULT_OVERHEAD,
        metavar="SIZE",
        help="memory of the process outside tensors: Python, torch, a CUDA context and the workspaces of its libraries "
        "(default: 600MiB; on a CPU with torch 2.13, importing takes 330MiB and decoding brought it to 490 to 630MiB)",
    )
    machine.add_argument(
        "--device",
        choices=["cpu", "cuda"],
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where it is decoded; it decides about some copies (default here: %(default)s)",
    )
    el = parser.add_argument_group("EL-attention (as the options of el_* tasks)")
    el.add_argument(
        "--el-backend",
        choices=["el", "shared-kv"],
        default=DEFAULT_BACKEND,
        help="what encoder-decoder attention keeps: el nothing but the encoder's output, shared-kv keys and values of "
        "every layer too, once for all beams (default: %(default)s)",
    )
    el.add_argument(
        "--el-self-attention",
        choices=["el", "kv"],
        default=DEFAULT_SELF_ATTENTION,
        help="which of the two the recommended batch size is for (default: %(default)s)",
    )
    el.add_argument(
        "--el-encoder-tokens",
        type=positive,
        default=DEFAULT_ENCODER_TOKENS,
        metavar="N",
        help="(default: %(default)s)",
    )
    el.add_argument(
        "--node-share",
        type=_share,
        metavar="X",
        help="share of the beam * tgt-len words that some beam still descends from, in the sentence of the batch that "
        "shares least, in the expected case (default: 0.75 from beam 4 on, where 0.58 to 0.74 were measured; 1 for "
        "beam 1, which shares nothing; 0.92 for beam 2 and 0.83 for beam 3, on the line between). The worst case is "
        "always 1",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="for programs: everything, in bytes")
    output.add_argument("--plot", metavar="FILE", help="draw memory against batch size into a new .png, .pdf or .svg")
    output.add_argument("--force", action="store_true", help="let --plot overwrite its file")


def run(options: argparse.Namespace) -> int:
    if options.plot is not None:
        check_plot(Path(options.plot), options.force, [options.path])
    if options.path is not None:
        shape = shape_of_checkpoint(options.path)
    else:
        shape = shape_of_architecture(options.arch, options.vocab_size)
    plan = Plan(shape, _workload(options), options.memory or free_memory(options.device), options.batch)
    recommended = options.el_self_attention
    write_line(json.dumps(plan.as_dict(recommended), indent=2) if options.json else plan.as_text(recommended))
    if options.batch is None and plan.largest[recommended] == 0:
        needed = memory(recommended, shape, replace(plan.work, batch=1)).total
        raise FairseqElError(
            f"not one sentence fits: EL-attention needs {format_size(needed)} for a batch of one, and there are "
            f"{format_size(plan.limit)}. Use a smaller --beam, --tgt-len or --dtype, or a larger --memory"
        )
    if options.plot is not None:
        from fairseq_el.cli.plot import draw  # matplotlib is an extra

        draw(Path(options.plot), shape, plan.work, plan.limit, plan.methods, options.force)
    return 0


class Plan:
    """What every method takes, and the largest batch that it can have."""

    def __init__(self, shape: ModelShape, work: Workload, limit: int, batch: int | None):
        self.shape, self.work, self.limit, self.batch = shape, work, limit, batch
        # Without cross-attention, there is no cross cache to share.
        self.methods = [name for name in METHODS if not (shape.decoder_only and name == "stock-shared")]
        self.largest = {name: largest_batch(name, shape, work, limit) for name in self.methods}
        self.largest_worst = {name: largest_batch(name, shape, work, limit, worst=True) for name in self.methods}

    def shown_batch(self, method: str) -> int:
        return self.batch or max(self.largest[method], 1)

    def breakdown(self, method: str, worst: bool) -> Breakdown:
        return memory(method, self.shape, replace(self.work, batch=self.shown_batch(method)), worst)

    def max_tokens(self, batch_size: int) -> int:
        """fairseq counts a batch as its number of sentences times its longest source."""
        return batch_size * self.work.src_len

    def as_dict(self, recommended: str) -> Dict[str, Any]:
        methods = {
            name: {
                "title": METHODS[name],
                "batch": self.shown_batch(name),
                "expected": self.breakdown(name, worst=False).as_dict(),
                "worst": self.breakdown(name, worst=True).as_dict(),
                "largest_batch": {"expected": self.largest[name], "worst": self.largest_worst[name]},
            }
            for name in self.methods
        }
        work = {name: value for name, value in asdict(self.work).items() if name != "batch"}
        return {
            "model": asdict(self.shape),
            "workload": work,
            "memory": self.limit,
            "methods": methods,
            "recommended": {
                "el_backend": self.work.backend,
                "el_self_attention": recommended,
                **{
                    case: {"batch_size": batch, "max_tokens": self.max_tokens(batch)}
                    for case, batch in (
                        ("expected", self.largest[recommended]),
                        ("worst", self.largest_worst[recommended]),
                    )
                },
            },
        }

    def as_text(self, recommended: str) -> str:
        expected = {name: self.breakdown(name, worst=False) for name in self.methods}
        worst = {name: self.breakdown(name, worst=True) for name in self.methods}

        def row(title: str, cell: Callable[[str], str]) -> List[str]:
            return [title, *(cell(name) for name in self.methods)]

        def bytes_of(part: str) -> Callable[[str], str]:
            return lambda name: format_size(getattr(expected[name], part)) if getattr(expected[name], part) else "-"

        rows = [row("memory for a batch of", lambda name: f"{self.shown_batch(name):,}")]
        rows += [
            row(title, bytes_of(part)) for title, part in _ROWS if any(getattr(e, part) for e in expected.values())
        ]
        rows += [
            row("total, expected", lambda name: format_size(expected[name].total)),
            row("b) decoder state, worst case", lambda name: format_size(worst[name].decoder_state)),
            row("total, worst case", lambda name: format_size(worst[name].total)),
            row("largest batch, expected", lambda name: f"{self.largest[name]:,}"),
            row("largest batch, worst case", lambda name: f"{self.largest_worst[name]:,}"),
        ]
        headers = ["", *(METHODS[name].replace(", ", ",\n").replace(" shared", "\nshared") for name in self.methods)]
        table = tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * len(self.methods)))
        return f"{self._title()}\n\n{table}\n\n{self._advice(recommended)}"

    def _title(self) -> str:
        shape, work = self.shape, self.work
        layers = (
            f"{shape.decoder_layers} layers"
            if shape.decoder_only
            else f"{shape.encoder_layers} + {shape.decoder_layers} layers"
        )
        source = "prompts" if shape.decoder_only else "sources"
        weights = "weights + packed weights" if work.can_pack else "weights"
        return (
            f"{shape.parameters:,} parameters, {layers}, width {shape.decoder_dim}, {shape.vocab_size:,} words; "
            f"{work.dtype} on {work.device}\n"
            f"beam {work.beam}, {source} of {work.src_len:,} tokens, {work.tgt_len:,} words out; "
            f"{format_size(self.limit)} of memory\n"
            f"total = {weights} + process + sources, words, scores + the larger of a and the sum of b"
        )

    def _advice(self, recommended: str) -> str:
        usual, safe = self.largest[recommended], self.largest_worst[recommended]
        if usual == 0:
            return f"With --el-self-attention {recommended} nothing fits."
        options = f"--el-self-attention {recommended} --el-encoder-tokens {self.work.encoder_tokens}"
        if self.work.backend != DEFAULT_BACKEND:
            options = f"--el-backend {self.work.backend} {options}"
        share = default_node_share(self.work.beam) if self.work.node_share is None else self.work.node_share
        lines = [
            f"Use: {options} --batch-size {usual} --max-tokens {self.max_tokens(usual)}",
            f"     if beams share their past as usual (--node-share {share:g});",
        ]
        if safe > 0:
            lines.append(
                f"     --batch-size {safe} --max-tokens {self.max_tokens(safe)} fits even if they share nothing."
            )
        return "\n".join(lines)


def _workload(options: argparse.Namespace) -> Workload:
    return Workload(
        batch=1,
        beam=options.beam,
        src_len=options.src_len,
        tgt_len=options.tgt_len,
        dtype=options.dtype,
        encoder_tokens=options.el_encoder_tokens,
        overhead=options.overhead,
        node_share=options.node_share,
        device=options.device,
        torch_attention=torch_attention(options.device, options.dtype),
        can_pack=can_pack(options.device, DTYPES[options.dtype].torch_dtype),
        keeps_packed=True,
        backend=options.el_backend,
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1; got {text!r}")
    return value
