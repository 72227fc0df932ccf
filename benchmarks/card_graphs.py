"""Checks and times steps that stay in place, and CUDA graphs of them, on a card.

    python benchmarks/card_graphs.py                       # all stages, at most 4 minutes
    python benchmarks/card_graphs.py --stages tiny         # one of them
    python benchmarks/card_graphs.py --cpu                 # what can be tried without a card, at tiny sizes

Each stage is a process of its own with a time limit. Every finding is a line of JSON, printed at once. Three ways to
decode are compared: "present" is the loop with its usual steps; "eager" has steps in place, launched from Python; and
"graph" replays them. It needs torch, fairseq, this repository and its tests/helpers.

Stages, in this order:

    tiny    equality over random tiny models and options, fp32 and fp16
    large   equality at BART-large's shape, and times at batch 16
    few     times at batch 1 and 32
    many    times at batch 128
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

ROOT = Path(__file__).resolve().parent.parent
STAGES = {"tiny": 60, "large": 85, "few": 75, "many": 60}  # seconds at most
TO_START = 20  # seconds that a stage leaves for imports and its last case
WAYS = ("present", "eager", "graph")
ARTICLE, FEW_WORDS, WORDS = 1024, 16, 64  # tokens of a source, and words of a hypothesis


def say(**finding: Any) -> None:
    print(json.dumps(finding), flush=True)


def run_stages(options: argparse.Namespace) -> int:
    """Runs each stage in a process of its own. Returns how many failed."""
    begun, failed = time.monotonic(), 0
    environment = {**os.environ, "FAIRSEQ_EL_NATIVE": "0"}
    for stage in options.stages:
        left = options.limit - (time.monotonic() - begun)
        limit = min(STAGES[stage] * (3 if options.cpu else 1), left)
        if limit < 10:
            say(stage=stage, skipped=f"{left:.0f} s are left")
            continue
        command = [sys.executable, __file__, "--stage", stage, "--seed", str(options.seed)]
        command += ["--cases", str(options.cases), "--rounds", str(options.rounds)]
        command += ["--seconds", str(limit - TO_START), *(["--cpu"] if options.cpu else [])]
        before = time.monotonic()
        try:
            status: Any = subprocess.run(command, timeout=limit, env=environment).returncode
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
        failed += status != 0
        say(stage=stage, status=status, seconds=round(time.monotonic() - before, 1))
    return failed


class Ways:
    """Decodes a batch in one of the three ways, and counts captures.

    Attributes:
        captures: captures so far. failures: errors of those that failed. capture_seconds: what they took.
    """

    def __init__(self, on_cpu: bool):
        from fairseq_el.generation import static_search

        self.search, self.on_cpu = static_search.StaticSearch, on_cpu
        self.captures, self.capture_seconds = 0, 0.0
        self.failures: List[str] = []
        capture = static_search.captured

        def counted(step: Any, device: Any) -> Any:
            begun = time.perf_counter()
            try:
                replay = capture(step, device)
            except RuntimeError as error:
                self.failures.append(str(error)[:300])
                raise
            self.captures += 1
            self.capture_seconds += time.perf_counter() - begun
            return replay

        static_search.captured = counted  # type: ignore[assignment]

    def decode(self, way: str, generator: Any, model: Any, sample: Any, **given: Any) -> Any:
        in_place = way != "present"
        generator.cuda_graphs = "on" if in_place else "off"
        self.search.any_device = in_place and self.on_cpu
        self.search.captures = way == "graph"
        return generator.generate([model], sample, **given)


def compared(found: Any, expected: Any) -> Dict[str, Any]:
    """Counts hypotheses with the same words or scores, and finds the largest gap of scores at the same rank."""
    pairs = [(m, t) for mine, theirs in zip(found, expected) for m, t in zip(mine, theirs)]
    same = [m["tokens"].tolist() == t["tokens"].tolist() for m, t in pairs]
    bits = [s and bool((m["positional_scores"] == t["positional_scores"]).all()) for s, (m, t) in zip(same, pairs)]
    as_many = [len(mine) for mine in found] == [len(theirs) for theirs in expected]
    gaps = [abs(float(m["score"]) - float(t["score"])) for m, t in pairs]
    return {
        "hypotheses": len(pairs),
        "same_words": sum(same),
        "same_bits": sum(bits),
        "as_many": as_many,
        "largest_score_gap": float(f"{max(gaps, default=0.0):.3g}"),
    }


# Stage tiny


def tiny_cases(draw: random.Random) -> Iterator[Tuple[Dict[str, Any], Dict[str, Any], Dict[str, int]]]:
    """Options of models, of generators, and sizes of storage."""
    while True:
        width = draw.choice([32, 64, 128])  # heads of 8 numbers or more: of fewer, torch's attention is in doubt
        model = {
            "arch": draw.choice(["transformer", "bart_base", "transformer_lm"]),
            "backend": draw.choice(["el", "shared-kv"]),
            "self_attention": draw.choice(["kv", "el"]),
            "decoder_embed_dim": width,
            "decoder_attention_heads": draw.choice([2, 4]),
            "decoder_normalize_before": draw.random() < 0.5,
            "decoder_learned_pos": draw.random() < 0.5,
            "layernorm_embedding": draw.random() < 0.5,
            "activation_fn": draw.choice(["relu", "gelu"]),
            "encoder_embed_dim": draw.choice([32, 64]),
            "share_decoder_input_output_embed": draw.random() < 0.5,
        }
        generator = {
            "beam_size": draw.choice([1, 2, 4, 5]),
            "max_len_b": draw.choice([6, 12, 40]),
            "min_len": draw.choice([1, 3]),
            "len_penalty": draw.choice([1.0, 0.0, 2.0]),
            "unk_penalty": draw.choice([0.0, 0.7]),
            "temperature": draw.choice([1.0, 0.8]),
            "no_repeat_ngram_size": draw.choice([0, 0, 1, 2, 3]),
            "normalize_scores": draw.random() < 0.7,
        }
        sizes = {
            "STEPS_OF_ROOM": draw.choice([1, 2, 16]),
            "LEAST_STATIC_ROWS": draw.choice([1, 64]),
            "LEAST_OUTPUT_ROWS": draw.choice([8, 512]),
            "LEAST_REPLAYS": 1,
        }
        yield model, generator, sizes


def tiny(options: argparse.Namespace) -> None:
    """Equality over random models and options."""
    import torch
    from tiny import batch, build_language_model, build_model, dictionary

    import fairseq_el
    from fairseq_el import policy
    from fairseq_el.generation import ELSequenceGenerator

    words, draw, ways = dictionary(60), random.Random(options.seed), Ways(options.cpu)
    totals: Dict[Any, Dict[str, Any]] = {}
    deadline = time.monotonic() + options.seconds
    cases = tiny_cases(draw)
    for number in range(options.cases):
        if time.monotonic() > deadline:
            break
        of_model, of_generator, sizes = next(cases)
        dtype = "fp16" if number % 2 and not options.cpu else "fp32"
        for name, size in sizes.items():
            setattr(policy, name, size)
        arch, backend, self_attention = (of_model.pop(name) for name in ("arch", "backend", "self_attention"))
        of_language = arch == "transformer_lm"
        if of_language:
            width = of_model["decoder_embed_dim"]
            of_model = {name: value for name, value in of_model.items() if not name.startswith("encoder")}
            of_model.update(decoder_input_dim=width, decoder_output_dim=width)
            model = build_language_model(words, number, torch.float32, **of_model)
        else:
            model = build_model(arch, words, number, torch.float32, share_all_embeddings=False, **of_model)
        model = fairseq_el.enable_el_attention(model.requires_grad_(False), backend, self_attention)
        model = model.to(options.device).to({"fp16": torch.float16, "fp32": torch.float32}[dtype])
        generator = ELSequenceGenerator([model], words, **of_generator)
        generator.record_attention = False
        lengths = [draw.randint(2, 12) for _ in range(draw.choice([1, 3, 9, 24]))]
        sample = batch(words, lengths, number)
        given = {}
        if of_language:
            begun = sample["net_input"]["src_tokens"][:, :1].new_full((len(lengths), 3), words.eos())
            begun[:, 1:] = torch.randint(4, len(words), (len(lengths), 2))
            sample = {"id": sample["id"], "net_input": {"src_tokens": begun, "src_lengths": begun.ne(1).sum(dim=1)}}
            given["prefix_tokens"] = begun[:, 1:].to(options.device)
        sample = moved(sample, options.device)
        found = {way: ways.decode(way, generator, model, sample, **given) for way in WAYS}
        for pair in (("eager", "present"), ("graph", "eager")):
            result = compared(found[pair[0]], found[pair[1]])
            total = totals.setdefault((dtype, pair), {"cases": 0, "hypotheses": 0, "same_words": 0, "same_bits": 0})
            total["cases"] += 1
            for name in ("hypotheses", "same_words", "same_bits"):
                total[name] += result[name]
            total["largest_score_gap"] = max(total.get("largest_score_gap", 0.0), result["largest_score_gap"])
            wrong = not result["as_many"] or result["same_words"] < result["hypotheses"]
            if wrong and (dtype == "fp32" or pair[0] == "graph"):
                case = {"arch": arch, "backend": backend, "self_attention": self_attention, **of_model, **of_generator}
                say(stage="tiny", differs=pair, case=number, dtype=dtype, **result, options={**case, **sizes})
    for (dtype, pair), total in totals.items():
        say(stage="tiny", compared=pair, dtype=dtype, **total)
    say(stage="tiny", captures=ways.captures, failures=sorted(set(ways.failures)), **per_capture(ways))


def per_capture(ways: Ways) -> Dict[str, Any]:
    """Milliseconds that a capture takes."""
    return {"ms_per_capture": round(1e3 * ways.capture_seconds / ways.captures, 1)} if ways.captures else {}


def moved(value: Any, device: str) -> Any:
    """A sample on a device, after the copies have happened."""
    if isinstance(value, dict):
        return {name: moved(item, device) for name, item in value.items()}
    return value.to(device) if hasattr(value, "to") else value


# Stages of BART-large's shape


class Large:
    """A model of BART-large's shape with random weights (or a tiny one, with ``--cpu``), and its generators."""

    def __init__(self, options: argparse.Namespace, dtype: str = "fp16"):
        import torch
        from tiny import build_model, dictionary

        import fairseq_el
        from fairseq_el.generation import ELSequenceGenerator

        cpu = options.cpu
        self.options, self.torch, self.device = options, torch, options.device
        self.generator_class, self.enable = ELSequenceGenerator, fairseq_el.enable_el_attention
        self.words = dictionary(100 if cpu else 50_260)
        self.src_len = 24 if cpu else ARTICLE
        width, layers = (32, 2) if cpu else (1024, 12)
        sizes = {
            **dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim"), width),
            **dict.fromkeys(("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"), 4 * width),
            **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4 if cpu else 16),
            **dict.fromkeys(("encoder_layers", "decoder_layers"), layers),
            **dict.fromkeys(("max_source_positions", "max_target_positions"), ARTICLE),
            **dict.fromkeys(("encoder_learned_pos", "decoder_learned_pos", "layernorm_embedding"), True),
            "no_scale_embedding": True,
            "activation_fn": "gelu",
        }
        with torch.device("meta"):
            model = build_model("transformer", self.words, 1, torch.float32, **sizes)
        model = model.to_empty(device=self.device).to(torch.float32 if cpu or dtype == "fp32" else torch.float16)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1:
                    gain = 2.0 if "q_proj" in name or "k_proj" in name or "embed" in name else 0.7
                    parameter.normal_(std=gain * parameter.size(1) ** -0.5)
                else:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        self.model = self.enable(model.eval().requires_grad_(False))

    def sample(self, num_sentences: int, ragged: bool = False) -> Any:
        torch = self.torch
        draw = torch.Generator().manual_seed(num_sentences)
        shape = (num_sentences, self.src_len)
        source = torch.randint(self.words.nspecial, len(self.words), shape, generator=draw)
        source[:, -1] = self.words.eos()
        if ragged:
            for i in range(1, num_sentences):
                source[i, : (i * 37) % (self.src_len // 2)] = self.words.pad()
        lengths = source.ne(self.words.pad()).sum(dim=1)
        return moved({"net_input": {"src_tokens": source, "src_lengths": lengths}}, self.device)

    def generator(self, num_words: int, **given: Any) -> Any:
        """Hypotheses of exactly so many words."""
        options = {"beam_size": 4, "max_len_b": num_words, "min_len": num_words, **given}
        generator = self.generator_class([self.model], self.words, **options)
        generator.record_attention = False
        return generator

    def synchronize(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def seconds(self, call: Any) -> float:
        self.synchronize()
        begun = time.perf_counter()
        call()
        self.synchronize()
        return time.perf_counter() - begun


def equality(large: Large, ways: Ways, stage: str, dtype: str, num_sentences: int) -> None:
    for backend, ragged in (("shared-kv", False), ("el", True)):
        large.enable(large.model, backend)
        sample = large.sample(num_sentences, ragged)
        for ngrams in (0, 3):
            generator = large.generator(24 if large.options.cpu else 40, min_len=4, no_repeat_ngram_size=ngrams)
            found = {way: ways.decode(way, generator, large.model, sample) for way in WAYS}
            for pair in (("eager", "present"), ("graph", "eager"), ("graph", "present")):
                result = compared(found[pair[0]], found[pair[1]])
                say(stage=stage, compared=pair, backend=backend, dtype=dtype, ragged=ragged, ngrams=ngrams, **result)


def times(large: Large, ways: Ways, stage: str, num_sentences: int, ngrams: int = 0, rounds: int = 0) -> None:
    """Seconds of whole decoding, and milliseconds of a step, of all ways in turn."""
    from fairseq_el.generation import step_graph

    sample, torch = large.sample(num_sentences), large.torch
    for backend in ("shared-kv", "el"):
        large.enable(large.model, backend)
        lengths = (4, 8) if large.options.cpu else (FEW_WORDS, WORDS)
        generators = [large.generator(n, no_repeat_ngram_size=ngrams) for n in lengths]
        took: Dict[Any, List[float]] = {}
        memory: Dict[str, Any] = {}
        captures = ways.captures
        for turn in range(1 + (rounds or large.options.rounds)):
            for i in range(len(WAYS)):
                way = WAYS[(turn + i) % len(WAYS)]
                if large.device == "cuda":
                    if way != "graph":
                        step_graph.release_pool(torch.device("cuda", torch.cuda.current_device()))
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                for n, generator in zip(lengths, generators):
                    call = lambda: ways.decode(way, generator, large.model, sample)  # noqa: B023, E731
                    seconds = large.seconds(call)
                    if turn > 0:
                        took.setdefault((way, n), []).append(seconds)
                if large.device == "cuda":
                    peaks = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
                    memory[way] = [round(peak / 2**20) for peak in peaks]
        for way in WAYS:
            few, many = (took[way, n] for n in lengths)
            steps = [1e3 * (b - a) / (lengths[1] - lengths[0]) for a, b in zip(few, many)]
            say(
                stage=stage,
                batch=num_sentences,
                backend=backend,
                way=way,
                ngrams=ngrams,
                words=lengths[1],
                seconds=round(statistics.median(many), 4),
                all_seconds=[round(s, 4) for s in many],
                ms_per_step=round(statistics.median(steps), 3),
                all_ms_per_step=[round(s, 3) for s in steps],
                mib_allocated_reserved=memory.get(way),
            )
        say(stage=stage, batch=num_sentences, backend=backend, captures=ways.captures - captures, **per_capture(ways))


def launches(large: Large, ways: Ways, stage: str, num_sentences: int) -> None:
    """Launches of a step, and milliseconds that the card is busy in it, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    if large.options.cpu:
        return
    sample, cuda = large.sample(num_sentences), large.torch.autograd.DeviceType.CUDA
    for backend in ("shared-kv", "el"):
        large.enable(large.model, backend)
        for way in WAYS:
            counts, busy = [], []
            for n in (FEW_WORDS, 32):
                generator = large.generator(n)
                with profile(activities=[ProfilerActivity.CUDA]) as profiler:
                    large.seconds(lambda: ways.decode(way, generator, large.model, sample))  # noqa: B023
                events = [event for event in profiler.events() or [] if event.device_type == cuda]
                counts.append(len(events))
                busy.append(sum(event.time_range.elapsed_us() for event in events) / 1e3)
            per_step = [round((b - a) / (32 - FEW_WORDS), 2) for a, b in (counts, busy)]
            say(stage=stage, batch=num_sentences, backend=backend, way=way, launches=per_step[0], busy_ms=per_step[1])


def large_stage(options: argparse.Namespace) -> None:
    ways = Ways(options.cpu)
    large = Large(options, "fp16")
    equality(large, ways, "large", "fp16", 3 if options.cpu else 16)
    say(stage="large", captures=ways.captures, failures=sorted(set(ways.failures)), **per_capture(ways))
    times(large, ways, "large", 2 if options.cpu else 16)
    times(large, ways, "large", 2 if options.cpu else 16, ngrams=3, rounds=1)
    if not options.cpu:
        large = Large(options, "fp32")
        equality(large, ways, "large", "fp32", 4)


def few(options: argparse.Namespace) -> None:
    ways, large = Ways(options.cpu), Large(options)
    for num_sentences in (1, 32) if not options.cpu else (1,):
        times(large, ways, "few", num_sentences)
    launches(large, ways, "few", 16)


def many(options: argparse.Namespace) -> None:
    ways, large = Ways(options.cpu), Large(options)
    times(large, ways, "many", 5 if options.cpu else 128)


def run_stage(options: argparse.Namespace) -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
    try:
        import pytest  # noqa: F401
    except ImportError:  # tests/helpers/tiny.py imports it, for what is not used here
        sys.modules["pytest"] = types.ModuleType("pytest")
    import torch

    options.device = "cpu" if options.cpu else "cuda"
    if options.stage == "tiny" and not options.cpu:
        say(stage="tiny", card=torch.cuda.get_device_name(), torch=torch.__version__, cuda=torch.version.cuda)
    with torch.no_grad():
        {"tiny": tiny, "large": large_stage, "few": few, "many": many}[options.stage](options)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages = ",".join(STAGES)
    parser.add_argument("--stages", default=stages, metavar="S[,S...]", help="which, in this order (default: all)")
    parser.add_argument("--limit", type=float, default=235, metavar="SECONDS", help="of all (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=60, metavar="N", help="of stage tiny (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="that are timed (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of stage tiny (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="try the script without a card")
    parser.add_argument("--seconds", type=float, default=1e9, help=argparse.SUPPRESS)
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options)
        return 0
    options.stages = options.stages.split(",")
    unknown = sorted(set(options.stages) - set(STAGES))
    if unknown:
        parser.error(f"--stages must be of {stages}; got {', '.join(unknown)}")
    return min(run_stages(options), 1)


if __name__ == "__main__":
    sys.exit(main())
