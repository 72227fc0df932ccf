"""``fairseq-el plan``: plans the largest batch that fits in memory."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from fairseq_el.cli.model_shapes import shape_of_architecture, shape_of_checkpoint
from fairseq_el.cli.options import check_plot, positive, share, size, size_of_memory
from fairseq_el.cli.parser import add_command
from fairseq_el.cli.streams import write_line
from fairseq_el.decoding import DEFAULT_BACKEND, DEFAULT_SELF_ATTENTION
from fairseq_el.dtypes import DTYPES
from fairseq_el.errors import FairseqElError, OptionError
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS, native_threads, uses_graphs
from fairseq_el.ops import can_pack
from fairseq_el.planning import DEFAULT_OVERHEAD, ModelShape, Workload, free_memory, torch_attention
from fairseq_el.planning.report import Plan
from fairseq_el.tasks import import_user_directory
from fairseq_el.units import format_size

_DESCRIPTION = """\
Says how much memory decoding takes, and how large a batch fits, for stock fairseq and for EL-attention. It is
arithmetic: nothing is decoded, and with --arch no checkpoint is needed. On a CPU the plan is for native code, where it
is installed. For searches that it leaves to Python, set FAIRSEQ_EL_NATIVE=0."""

_EXAMPLE = """\
example: BART-large, articles of 1,024 tokens, summaries of up to 140, on a card of 16 GiB:

  fairseq-el plan --arch bart_large --beam 4 --src-len 1024 --tgt-len 140 --dtype fp16 --memory 16GiB --device cuda

Then give fairseq-generate the --batch-size it prints. Every row is explained in docs/plan.md."""


def add_parser(commands: Any, summary: str) -> None:
    parser = add_command(commands, "plan", run, summary, _DESCRIPTION, _EXAMPLE)
    _add_model(parser.add_argument_group("the model (one of the two)"))
    _add_batch(parser.add_argument_group("the batch"))
    _add_machine(parser.add_argument_group("the machine"))
    _add_el(parser.add_argument_group("EL-attention (as the options of el_* tasks)"))
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="for programs: everything, in bytes")
    output.add_argument("--plot", metavar="FILE", help="draw memory against batch size into a new .png, .pdf or .svg")
    output.add_argument("--force", action="store_true", help="let --plot overwrite its file")


def _add_model(model: Any) -> None:
    which = model.add_mutually_exclusive_group(required=True)
    which.add_argument("--path", metavar="FILE", help="a checkpoint, as for fairseq-generate")
    which.add_argument(
        "--arch", metavar="NAME", help="an architecture of fairseq, such as bart_large or transformer_lm_gpt"
    )
    model.add_argument("--user-dir", metavar="DIR", help="of your own, which registers the --arch")
    model.add_argument(
        "--vocab-size",
        type=positive,
        metavar="N",
        help="words of the vocabulary, for --arch; not needed for bart_* (default: 50264) and for --path",
    )


def _add_batch(batch: Any) -> None:
    batch.add_argument("--beam", type=positive, required=True, metavar="N", help="beam size")
    batch.add_argument(
        "--src-len",
        type=positive,
        required=True,
        metavar="N",
        help="tokens of the longest source; for language models, of the longest prompt",
    )
    batch.add_argument(
        "--tgt-len",
        type=positive,
        required=True,
        metavar="N",
        help="words to generate at most (--max-len-b), a prompt not counted",
    )
    batch.add_argument("--dtype", choices=DTYPES, required=True, help="of weights and activations: fp16 for --fp16")
    batch.add_argument(
        "--batch", type=positive, metavar="N", help="show this batch size instead of the largest that fits"
    )


def _add_machine(machine: Any) -> None:
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


def _add_el(el: Any) -> None:
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
        help="positions that the encoder computes at a time (default: %(default)s)",
    )
    el.add_argument(
        "--el-cuda-graphs",
        choices=["auto", "on", "off"],
        default="auto",
        help="CUDA graphs, whose steps keep more room; auto is on for --device cuda, with torch 2.1 or later",
    )
    el.add_argument(
        "--el-weights",
        choices=["as-loaded", "int8"],
        default="as-loaded",
        help="int8 keeps copies of the weights in 8 bits beside the model (default: %(default)s)",
    )
    el.add_argument(
        "--node-share",
        type=share,
        metavar="X",
        help="share of the beam * tgt-len words that some beam still descends from, in the sentence of the batch that "
        "shares least, in the expected case (default: 0.75 from beam 4 on, where 0.58 to 0.74 were measured; 1 for "
        "beam 1, which shares nothing; 0.92 for beam 2 and 0.83 for beam 3, on the line between). The worst case is "
        "always 1",
    )


def run(options: argparse.Namespace) -> int:
    if options.plot is not None:
        check_plot(Path(options.plot), options.force, [options.path])
    if options.path is not None:
        shape = shape_of_checkpoint(options.path)
    else:
        if options.user_dir is not None:
            import_user_directory(options.user_dir)
        shape = shape_of_architecture(options.arch, options.vocab_size)
    limit = options.memory or free_memory(options.device)
    plan = Plan(shape, _workload(options, shape), limit, options.batch, options.el_self_attention)
    write_line(json.dumps(plan.as_dict(), indent=2) if options.json else plan.as_text())
    if options.batch is None and not plan.fits:
        needed = plan.total_for(plan.recommended, batch=1)
        raise FairseqElError(
            f"not one sentence fits: EL-attention needs {format_size(needed)} for a batch of one, and there are "
            f"{format_size(limit)}. Use a smaller --beam, --tgt-len or --dtype, or a larger --memory"
        )
    if options.plot is not None:
        plan.draw(Path(options.plot), options.force)
    return 0


def _workload(options: argparse.Namespace, shape: ModelShape) -> Workload:
    in_int8 = options.el_weights == "int8"
    if in_int8 and (options.dtype, options.device) != ("fp32", "cpu"):
        raise OptionError(
            f"--el-weights int8 needs --dtype fp32 and --device cpu; they are {options.dtype} and {options.device}"
        )
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
        can_pack=not in_int8 and can_pack(options.device, DTYPES[options.dtype].torch_dtype),
        keeps_packed=True,
        int8=in_int8,
        native_threads=native_threads(options.device, options.dtype, options.beam, shape.vocab_size),
        backend=options.el_backend,
        graphs=options.device == "cuda" and uses_graphs(options.el_cuda_graphs, torch.device("cuda")),
    )
