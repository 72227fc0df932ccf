"""``fairseq-el plan`` as a user runs it."""

from __future__ import annotations

import json
import re
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from types import SimpleNamespace

import fairseq
import pytest
import torch
from commands import EXAMPLE, REPOSITORY, run
from tiny import TINY, build_language_model, build_model, dictionary, save_with_cfg

from fairseq_el.cli import main
from fairseq_el.cli.model_shapes import shape_of_architecture, shape_of_checkpoint
from fairseq_el.dtypes import DTYPES
from fairseq_el.generation import DEFAULT_ENCODER_TOKENS
from fairseq_el.native import extension
from fairseq_el.ops import can_pack
from fairseq_el.planning import METHODS, shape_of
from fairseq_el.units import format_size, parse_size

DOCUMENT = (REPOSITORY / "docs" / "plan.md").read_text(encoding="utf-8")
OLD = fairseq.__version__.startswith("0.12.2")  # holds the weights of the encoder's layers twice
PARAMETERS = {"bart_large": 557_395_968 if OLD else 406_290_432, "transformer": 63_194_112 if OLD else 44_292_096}
BART = ["--arch", "bart_large", "--beam", 4, "--src-len", 1024, "--tgt-len", 140, "--dtype", "fp16", "--device", "cpu"]
SMALL = ["--beam", 5, "--src-len", 30, "--tgt-len", 30, "--dtype", "fp32", "--device", "cpu", "--memory", "4GiB"]
BUNDLED = ["--path", EXAMPLE / "model.pt", *SMALL]  # torch 1.12 takes 10 s for each bart_large


def plan(*arguments, fails=False):
    """What a process would print, without the time that it takes to start."""
    with redirect_stdout(StringIO()) as stdout, redirect_stderr(StringIO()) as stderr:
        status = main(["plan", *map(str, arguments)])
    assert (status != 0) == fails, stderr.getvalue()
    return SimpleNamespace(returncode=status, stdout=stdout.getvalue(), stderr=stderr.getvalue())


def in_process(*arguments, capsys) -> dict:
    """What ``--json`` says, without the time that a process takes to start."""
    assert main(["plan", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def error(process) -> str:
    """The one line that says what is wrong; fairseq may log others while it is imported."""
    (line,) = [line for line in process.stderr.splitlines() if not re.match(r"(\S+ )*(INFO|WARNING)\b|INFO:", line)]
    return line


@pytest.mark.long
@pytest.mark.skipif(OLD, reason="it is of fairseq 0.12.3")
def test_the_example_in_the_documentation():
    command, output = re.search(r"```sh\nfairseq-el (plan .*?)\n```.*?```\n(.*?)```", DOCUMENT, re.S).groups()
    assert run("el", *command.split()).stdout == output


def test_bart_large_on_16_gib():
    result = json.loads(plan(*BART, "--memory", "16GiB", "--el-self-attention", "el", "--json").stdout)
    methods = result["methods"]
    assert list(methods) == list(METHODS)
    largest = [methods[name]["largest_batch"]["expected"] for name in METHODS]
    assert largest == sorted(largest)
    assert largest[-1] >= 1000
    assert result["model"]["parameters"] == PARAMETERS["bart_large"]
    assert result["memory"] == 16 * 1024**3
    for method in methods.values():
        assert method["batch"] == method["largest_batch"]["expected"] >= method["largest_batch"]["worst"]
        assert method["expected"]["total"] <= result["memory"]
    recommended = result["recommended"]
    assert recommended["expected"] == {"batch_size": largest[-1], "max_tokens": 1024 * largest[-1]}
    assert (
        f"{recommended['worst']['batch_size']} --max-tokens"
        in plan(*BART, "--memory", "16GiB", "--el-self-attention", "el").stdout
    )


def test_batch_is_shown_instead_of_the_largest(capsys):
    result = in_process(*BART, "--memory", "1GiB", "--batch", 7, capsys=capsys)
    assert {method["batch"] for method in result["methods"].values()} == {7}
    assert {method["largest_batch"]["worst"] for method in result["methods"].values()} == {0}


def test_bundled_checkpoint():
    output = plan("--path", EXAMPLE / "model.pt", *SMALL, "--el-self-attention", "kv").stdout
    assert f"Use: --el-self-attention kv --el-encoder-tokens {DEFAULT_ENCODER_TOKENS} --batch-size" in output
    assert "cache per beam" in output


def test_options_change_what_they_say(capsys):
    def totals(*options):
        result = in_process("--path", EXAMPLE / "model.pt", *SMALL, "--batch", 3000, *options, capsys=capsys)
        return {name: method["expected"] for name, method in result["methods"].items()}

    usual = totals()
    assert totals("--overhead", "700MiB")["el"]["overhead"] - usual["el"]["overhead"] == 100 * 1024**2
    assert totals("--node-share", "0.9")["el"]["decoder_state"] > usual["el"]["decoder_state"]
    assert totals("--el-encoder-tokens", 100)["el"]["encoding"] < usual["el"]["encoding"]
    assert totals("--dtype", "fp16")["kv"]["weights"] * 2 == usual["kv"]["weights"]


def test_backend_adds_keys_and_values_of_the_source(capsys):
    arguments = ["--path", EXAMPLE / "model.pt", *SMALL]
    usual = in_process(*arguments, "--batch", 3000, capsys=capsys)["methods"]
    keeping = in_process(*arguments, "--batch", 3000, "--el-backend", "shared-kv", capsys=capsys)
    for name in METHODS:
        more = keeping["methods"][name]["expected"]["source_keys_values"]
        assert usual[name]["expected"]["source_keys_values"] == 0
        assert (more > 0) == (name in ("el", "kv"))
    assert keeping["recommended"]["el_backend"] == keeping["workload"]["backend"] == "shared-kv"
    output = plan(*arguments, "--el-backend", "shared-kv").stdout
    assert "b) source's keys and values" in output
    assert "Use: --el-backend shared-kv --el-self-attention kv --el-encoder-tokens" in output


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64"])
def test_packed_weights_are_planned_on_processors_only(dtype, capsys):
    for device in ("cpu", "cuda"):
        options = [*BUNDLED, "--dtype", dtype, "--device", device]
        methods = in_process(*options, capsys=capsys)["methods"]
        packs = can_pack(device, DTYPES[dtype].torch_dtype)
        assert packs <= (device == "cpu")
        assert [bool(methods[name]["expected"]["packed"]) for name in METHODS] == [False, False, packs, packs]


@pytest.mark.skipif(extension() is None, reason="the extension is not compiled")
def test_the_plan_is_for_what_will_decode(capsys, monkeypatch):
    def planned(*options):
        result = in_process(*BUNDLED, "--batch", 300, *options, capsys=capsys)
        return result["workload"]["native_threads"], result["methods"]["kv"]["expected"]["decoder_state"]

    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "1")
    threads, native = planned()
    assert threads == torch.get_num_threads()
    assert f"; fp32 on cpu, native code with {threads} thread" in plan(*BUNDLED).stdout
    assert [planned(*of)[0] for of in (["--dtype", "bf16"], ["--dtype", "fp16"], ["--device", "cuda"])] == [
        threads,
        0,
        0,
    ]
    assert planned("--el-weights", "int8")[0] == threads
    monkeypatch.setenv("FAIRSEQ_EL_NATIVE", "0")
    assert planned()[0] == 0 and planned()[1] != native
    assert "; fp32 on cpu, steps in Python\n" in plan(*BUNDLED).stdout


def test_weights_in_8_bits(capsys):
    options = [*BUNDLED, "--dtype", "fp32", "--device", "cpu", "--el-weights", "int8"]
    methods = in_process(*options, capsys=capsys)["methods"]
    packed = [methods[name]["expected"]["packed"] for name in METHODS]
    assert packed[:2] == [0, 0] and 0.1 * methods["el"]["expected"]["weights"] < packed[3] <= packed[2]
    assert "Use: --el-weights int8 --el-self-attention kv" in plan(*options).stdout


def test_language_model():
    arguments = ["--arch", "transformer_lm_gpt", "--vocab-size", 50257, "--beam", 4, "--src-len", 500, "--tgt-len", 50]
    result = json.loads(plan(*arguments, "--dtype", "fp16", "--memory", "8GiB", "--json").stdout)
    assert list(result["methods"]) == ["stock", "kv", "el"]
    assert all(method["expected"]["cross_state"] == 0 for method in result["methods"].values())
    assert "cross-attention" not in plan(*arguments, "--dtype", "fp16", "--memory", "8GiB").stdout


def test_available_memory_is_the_default(capsys):
    result = in_process(*BUNDLED[:-2], capsys=capsys)
    assert result["memory"] > 1024**2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --beam, --src-len, --tgt-len, --dtype"),
        (
            [*BART, "--el-weights", "int8"],
            "--el-weights int8 needs --dtype fp32 and --device cpu; they are fp16 and ",
        ),
        (BART[2:], "one of the arguments --path --arch is required"),
        ([*BART, "--memory", "12XB"], "a size is a number with a unit, such as 16GiB, 16GB or 900MiB, .* got '12XB'"),
        ([*BART, "--beam", 0], "--beam: must be a whole number from 1 on; got '0'"),
        ([*BART, "--node-share", 1.5], "--node-share: must be above 0 and at most 1; got '1.5'"),
        (["--path", "nowhere.pt", *SMALL], "nowhere.pt does not exist"),
        (["--arch", "transformer", *SMALL], "--vocab-size is needed with --arch transformer: give the number of lines"),
        (
            ["--arch", "transfomer", *SMALL],
            "--arch must be one of fairseq's architectures, such as .* got 'transfomer'",
        ),
        (["--arch", "lightconv", "--vocab-size", 9, *SMALL], "lightconv can't be planned for: LightConvModel is not"),
    ],
)
def test_usage_errors(arguments, message, capsys):
    try:
        status = main(["plan", *map(str, arguments)])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert re.match(f"fairseq-el: error: .*{message}", capsys.readouterr().err)


def test_nothing_fits():
    process = plan(*BART, "--memory", "1GiB", fails=True)
    assert process.returncode == 1
    assert re.match(r"fairseq-el: error: not one sentence fits: EL-attention needs 1\.\d+ GiB", error(process))
    assert "nothing fits" in process.stdout


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"nothing")
    process = plan("--path", tmp_path / "model.pt", *SMALL, fails=True)
    assert process.returncode == 1
    assert error(process).startswith(f"fairseq-el: error: The checkpoint {tmp_path}/model.pt could not be read")


def test_a_checkpoint_of_something_else(tmp_path, capsys):
    save_with_cfg(tmp_path / "model.pt", torch.nn.Linear(2, 2), {})
    assert main(["plan", "--path", str(tmp_path / "model.pt"), *map(str, SMALL)]) == 2
    assert "must be a checkpoint of a Transformer, BART or transformer_lm model" in capsys.readouterr().err


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    target = tmp_path / "memory.png"
    plan(*BUNDLED, "--plot", target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [target]
    before = target.stat().st_mtime_ns
    assert f"--plot {target} exists already; choose another name, or add --force" in error(
        plan(*BUNDLED, "--plot", target, fails=True)
    )
    assert target.stat().st_mtime_ns == before
    plan(*BUNDLED, "--plot", target, "--force")
    assert target.stat().st_mtime_ns > before


def test_plot_without_matplotlib(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')")
    arguments = [*BUNDLED, "--plot", tmp_path / "x.png"]
    process = run("el", "plan", *arguments, fails=True, PYTHONPATH=str(tmp_path))
    assert process.returncode == 1
    assert error(process).endswith("pip install fairseq_el[plot]")


@pytest.mark.parametrize("arch", ["transformer", "bart_base", "transformer_lm"])
def test_the_shape_of_a_checkpoint_is_that_of_its_model(arch, tmp_path):
    settings = {**TINY, "activation_fn": "gelu" if arch == "bart_base" else "relu"}
    settings.update(encoder_normalize_before=False, decoder_normalize_before=False)
    if arch == "transformer_lm":
        model = build_language_model(dictionary(), 1)
    else:
        model = build_model(arch, dictionary(), 1, **settings)
    save_with_cfg(tmp_path / "model.pt", model, settings)
    assert shape_of_checkpoint(str(tmp_path / "model.pt")) == shape_of(model)


def test_the_shape_of_an_architecture_is_that_of_its_model():
    assert shape_of_architecture("bart_large", None).vocab_size == 50264
    assert shape_of_architecture("el_bart_large", None) == shape_of_architecture("bart_large", None)
    assert shape_of_architecture("transformer", 100).parameters == PARAMETERS["transformer"]


def test_sizes():
    assert [parse_size(text) for text in ("16GiB", "16GB", "900MiB", "1.5 kib", "12")] == [
        16 * 1024**3,
        16 * 10**9,
        900 * 1024**2,
        1536,
        12,
    ]
    assert [format_size(size) for size in (5, 2048, 1024**3 * 3 // 2, 123 * 1024**2)] == [
        "5 B",
        "2.00 KiB",
        "1.50 GiB",
        "123 MiB",
    ]
