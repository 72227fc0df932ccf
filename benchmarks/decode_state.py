"""Counts the bytes of the decode state of one batch from its live tensors, and how much beams share.

    python benchmarks/decode_state.py DATA --path model.pt --method el --batch 16 --beam 4 --tgt-len 140 --dtype bf16

Makes the tables of "What is in the decode state?", "How much do beams share?" and "Does a large batch take what the
plan says?" in docs/benchmarks.md. DATA is a directory of fairseq-preprocess; without --all its first batch is
decoded. With --tgt-len every hypothesis is made that long, without it they end where they end. One JSON object is
printed::

  cross_bytes            encoder output (stock keeps the source's embeddings with it), its mask, and cached keys and
                         values of encoder-decoder attention, at the end
  self_bytes             what decoder self-attention keeps between steps, at the end
  planned_cross_bytes, planned_self_bytes  the same by the formulas of fairseq-el plan, for the room that pools had
  reorder_bytes_per_step copied to follow the beams (for the tree: the ancestry mask)
  compaction_bytes_per_step copied to drop dead nodes and finished sentences (only the tree has any)
  node_share             nodes that a beam descends from, against beams times words: mean and maximum over sentences
                         and steps. of_largest: the share of the sentence with most nodes, when its batch needs the
                         most room, mean over batches; pools must have room for it
  capacity_nodes         nodes that the pools have room for, at the end
  peak_resident_bytes    of the whole process
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from typing import Any

import torch
from common import Arguments, make_parser, run_benchmark
from fairseq import checkpoint_utils, tasks
from fairseq.sequence_generator import SequenceGenerator
from measured_generate import StateProbe, num_bytes
from torch.nn.modules.module import register_module_forward_hook

import fairseq_el
from fairseq_el.cli.options import positive
from fairseq_el.cli.streams import write_line
from fairseq_el.dtypes import DTYPES
from fairseq_el.generation import DecodeState, ELSequenceGenerator
from fairseq_el.measure import ProcessMemory
from fairseq_el.planning import Workload, memory, shape_of, state_bytes

CACHES = ("stock-duplicated", "stock-shared", "kv", "el")
NOT_REPORTED = ("parser", "passes_options_on", "command_line")


class StockReorderings:
    """Counts what a stock generator copies to follow the beams: tensors that are others afterwards."""

    def __init__(self, generator: SequenceGenerator) -> None:
        self.copied: list[int] = []
        self.encoder_out_bytes = 0
        ensemble = generator.model
        self._reorder_state, self._reorder_encoder_out = (
            ensemble.reorder_incremental_state,
            ensemble.reorder_encoder_out,
        )
        ensemble.reorder_incremental_state = self.reorder_state
        ensemble.reorder_encoder_out = self.reorder_encoder_out

    def reorder_state(self, incremental_states: Any, new_order: Any) -> None:
        before = list(_tensors(incremental_states))
        self._reorder_state(incremental_states, new_order)
        self.copied.append(_bytes_of_others(_tensors(incremental_states), before))

    def reorder_encoder_out(self, encoder_outs: Any, new_order: Any) -> Any:
        result = self._reorder_encoder_out(encoder_outs, new_order)
        if self.copied:  # the first call, before any step, expands the batch to beams
            self.copied[-1] += _bytes_of_others(_tensors(result), list(_tensors(encoder_outs)))
        self.encoder_out_bytes = num_bytes(
            *(t for t in _tensors(result) if t.is_floating_point() or t.dtype == torch.bool)
        )
        return result


def _tensors(thing: Any) -> Any:
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, (dict, list, tuple)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from _tensors(part)


def _bytes_of_others(tensors: Any, before: list[torch.Tensor]) -> int:
    known = {t.data_ptr() for t in before}
    return sum(num_bytes(t) for t in tensors if t.data_ptr() not in known)


class TreeFigures:
    """Follows the decode states of an EL generator from step to step."""

    def __init__(self, beam_size: int) -> None:
        self.beam_size = beam_size
        self.shares: list[float] = []  # of one sentence at one step
        self.peaks: list[tuple[int, float]] = []  # of each batch: most nodes of a sentence, and their share then
        self.state: DecodeState | None = None

    def __call__(self, step: int, states: list[DecodeState]) -> None:
        (self.state,) = states
        words = self.state.tree.prompt_length + self.state.tree.num_steps
        living = self.state.tree.living_nodes().tolist()
        if words == 1:
            self.peaks.append((0, 0.0))
        self.peaks[-1] = max(self.peaks[-1], (max(living), max(living) / (self.beam_size * words)))
        self.shares.extend(nodes / (self.beam_size * words) for nodes in living)

    def report(self) -> dict[str, Any]:
        assert self.state is not None
        tree = self.state.tree
        largest = statistics.mean(share for _, share in self.peaks)
        return {
            "reorder_bytes_per_step": tree.reorder_bytes / tree.num_steps,
            "compaction_bytes_per_step": tree.compaction_bytes / tree.num_steps,
            "node_share": {"mean": statistics.mean(self.shares), "max": max(self.shares), "of_largest": largest},
            "capacity_nodes": tree.capacity,
        }


def planned(args: argparse.Namespace, model: Any, sample: Any, report: dict[str, Any]) -> dict[str, int]:
    """Bytes that ``fairseq-el plan`` computes for this batch; for stock only where the length of outputs is given."""
    method = {"stock-duplicated": "stock"}.get(args.method, args.method)
    batch, src_len = sample["net_input"]["src_tokens"].shape
    work = Workload(batch, args.beam, src_len, args.tgt_len or 0, args.dtype, args.encoder_tokens)
    shape = shape_of(model)
    parts = memory(method, shape, work)
    figures = {"planned_cross_bytes": parts.cross_state}
    if "capacity_nodes" in report:
        figures["planned_self_bytes"] = state_bytes(method, shape, work, report["capacity_nodes"])
    elif args.tgt_len is not None:
        figures["planned_self_bytes"] = parts.decoder_state
    return figures


def build(args: argparse.Namespace, model: Any, dictionary: Any) -> SequenceGenerator:
    lengths = {} if args.tgt_len is None else {"max_len_b": args.tgt_len, "min_len": args.tgt_len}
    options = {"beam_size": args.beam, "max_len_a": 0, "max_len_b": 200, **lengths}
    if args.method in ("kv", "el"):
        fairseq_el.enable_el_attention(model, self_attention=args.method)
        generator = ELSequenceGenerator([model], dictionary, **options)
        generator.record_attention = False
        generator.encoder_tokens = args.encoder_tokens
        return generator
    if args.method == "stock-duplicated" and hasattr(model, "set_beam_size"):
        model.set_beam_size = lambda beam_size: None  # as models other than BART, and BART before fairseq 0.12
    return SequenceGenerator([model], dictionary, **options)


def load(args: argparse.Namespace) -> tuple[Any, Any, Any]:
    """The dictionary of the target side, the model, and the batches."""
    state = checkpoint_utils.load_checkpoint_to_cpu(args.path)
    cfg = state["cfg"]
    cfg.task.data = args.data
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    model.load_state_dict(state["model"], strict=True, model_cfg=cfg.model)
    model = model.to(DTYPES[args.dtype].torch_dtype).eval()
    task.load_dataset(args.subset)
    batches = task.get_batch_iterator(
        task.dataset(args.subset), max_sentences=args.batch, max_positions=task.max_positions()
    ).next_epoch_itr(shuffle=False)
    return task.target_dictionary, model, batches if args.all else itertools.islice(batches, 1)


def decode(args: argparse.Namespace, dictionary: Any, model: Any, batches: Any) -> dict[str, Any]:
    """Decodes, and returns the figures, those of the state after the last batch."""
    generator = build(args, model, dictionary)
    probe, tree, reorderings = StateProbe(), TreeFigures(args.beam), None
    handle = register_module_forward_hook(probe)
    if isinstance(generator, ELSequenceGenerator):

        def on_step(step: int, states: list[DecodeState]) -> None:
            tree(step, states)
            probe.on_step(step, states)

        generator.on_step = on_step
    else:
        reorderings = StockReorderings(generator)
    begin, sentences = time.perf_counter(), 0
    figures: dict[str, Any] = {}
    for sample in batches:
        sentences += sample["id"].numel()
        generator.generate([model], sample)
        figures = {"cross_bytes": probe.cross_bytes, "self_bytes": probe.self_bytes}
        if reorderings is not None:
            figures["cross_bytes"] += reorderings.encoder_out_bytes - probe.encoder_out_bytes
            figures["reorder_bytes_per_step"] = statistics.mean(reorderings.copied)
        else:
            figures.update(tree.report())
        figures.update(planned(args, model, sample, figures))
    handle.remove()
    return {**figures, "sentences": sentences, "seconds": round(time.perf_counter() - begin, 1)}


def measure(options: argparse.Namespace) -> None:
    report = {**vars(options), **decode(options, *load(options))}
    report = {name: value for name, value in report.items() if name not in NOT_REPORTED}
    report["peak_resident_bytes"] = ProcessMemory().peak()
    write_line(json.dumps(report))


def main(arguments: Arguments = None) -> int:
    """Args: ``arguments``: of the command line (default: those of this process)."""
    parser = make_parser("decode_state.py", __doc__)
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--path", required=True, help="checkpoint")
    parser.add_argument("--method", choices=CACHES, default="el")
    parser.add_argument("--batch", type=positive, default=16, help="sentences")
    parser.add_argument("--beam", type=positive, default=4)
    parser.add_argument(
        "--tgt-len", type=positive, help="words of every hypothesis (default: as long as they get, up to 200)"
    )
    parser.add_argument("--dtype", choices=list(DTYPES), default="fp32")
    parser.add_argument("--subset", default="test")
    parser.add_argument("--encoder-tokens", type=positive, default=ELSequenceGenerator.encoder_tokens)
    parser.add_argument("--all", action="store_true", help="all batches of the data, not only the first")
    return run_benchmark(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main())
