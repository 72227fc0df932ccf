"""Malformed input to every command: one message, an exit status, nothing written, and no waiting."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import io
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import stat
import sys
from pathlib import Path

import pytest
import torch
from bad_inputs import TABLES
from command_lines import call, program_of
from commands import EXAMPLE
from damage import Hostile
from recipe_files import HERE, write_recipe
from tiny import build_model, dictionary, settings

from fairseq_el import checkpoint_loading
from fairseq_el.cli import convert, main
from fairseq_el.cli.main import explain_system
from fairseq_el.errors import summary_of
from fairseq_el.failure_report import explain_loading

NEED_SAFETENSORS = ("hugging-face", "sizes")
CODE = "__import__('os').mkdir('HACKED')"
ALARM = 60  # seconds: far more than any of these take, far less than a hang
OUTPUT = "S-0\tw1\nT-0\tw1 w2\nH-0\t-0.1\tw1 w2\nD-0\t-0.1\tw1 w2\nP-0\t-0.1 -0.1\n"
GOOD_PLAN = ["plan", "--arch", "bart_base", "--beam", "1", "--src-len", "9", "--tgt-len", "9", "--dtype", "fp32"]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Good input to all commands, once."""
    directory = tmp_path_factory.mktemp("good")
    words = dictionary(20)
    save(directory, "transformer", words, share_all_embeddings=True)
    (directory / "bart").mkdir()
    save(directory / "bart", "bart_base", words, share_all_embeddings=True)
    for name in ("dict.source.txt", "dict.target.txt"):
        shutil.copy(directory / "dict.txt", directory / "bart" / name)
    if importlib.util.find_spec("safetensors") is not None:
        main(["convert", "to-hf", str(directory / "bart"), "--out", str(directory / "hf")])
        (directory / "hf" / "tokenizer_config.json").write_text('{"tokenizer_class": "BartTokenizer"}')
    else:
        (directory / "hf").mkdir()
    files = dict.fromkeys(("source", "target", "model.pt", "dict.txt"), HERE)
    write_recipe(directory / "recipe.yaml", files=files, text=["source", "target"], languages=["de", "en"])
    (directory / "text").write_text("some text\n")
    (directory / "output.txt").write_text(OUTPUT)
    return directory


def save(directory, arch, words, **options):
    model = build_model(arch, words, 1, torch.float32, **options)
    args = settings(arch, **options, task="translation", source_lang=None, target_lang=None)
    history = [{"num_updates": 5, "criterion_name": "CrossEntropyCriterion", "best_loss": None}]
    torch.save(
        {"args": args, "model": model.state_dict(), "optimizer_history": history, "extra_state": {}},
        directory / "model.pt",
    )
    words.save(str(directory / "dict.txt"))


@pytest.fixture
def work(good, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the working directory."""
    shutil.copytree(good, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def contents(directory: Path) -> dict:
    """Everything below a directory; what is in files, and what else there is by its kind."""
    found = {}
    for path in sorted(directory.rglob("*")):
        mode = path.lstat().st_mode
        found[str(path.relative_to(directory))] = path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
    return found


@contextlib.contextmanager
def alarm():
    """Ends what hangs, for example on a FIFO that nobody writes to."""

    def ring(*unused):
        pytest.fail(f"still running after {ALARM} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(ALARM)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(arguments) -> int:
    with alarm():
        try:
            return call(arguments)
        except SystemExit as exit_:
            return exit_.code


def assert_one_message(said: str, message: str, program: str = "fairseq-el") -> None:
    """One line; or a headline, a list, and a line on what to do."""
    first, *others = said.rstrip("\n").split("\n")
    assert first.startswith(f"{program}: error: "), said
    if others:
        assert all(line.startswith("  - ") for line in (others[0], *others[:-1])), said
    assert re.search(message, said), said
    assert "Traceback" not in said and "weights_only" not in said
    assert len(said) < 4000


ROWS = [
    pytest.param(name, *row, id=f"{name}-{number}")
    for name, rows in TABLES.items()
    for number, row in enumerate(rows, 1)
]


@pytest.mark.parametrize(("table", "command", "change", "message"), ROWS)
def test_bad_input(table, command, change, message, work, monkeypatch, capsys):
    if table in NEED_SAFETENSORS:
        pytest.importorskip("safetensors")
    change(work)
    before = contents(work)
    command, _, given = command.partition(" < ")
    if given:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((work / given).read_bytes())))
    arguments = shlex.split(command)
    status = run(arguments)
    said = capsys.readouterr().err
    assert status in (1, 2), said
    assert_one_message(said, message, program_of(arguments))
    assert contents(work) == before


def test_there_are_many():
    assert len(ROWS) >= 150
    assert len({(command, message) for _, command, _, message in (row.values for row in ROWS)}) > 150


@pytest.mark.parametrize(
    "command",
    [
        " ".join([*GOOD_PLAN, "--memory 16GiB"]),
        " ".join([*GOOD_PLAN, "--memory 16GiB"]).replace("--arch bart_base", "--path model.pt"),
        "convert info model.pt",
        "convert strip model.pt --out new.pt",
        "convert to-el model.pt --out new.pt",
        "convert to-hf bart --out new",
        "convert from-hf hf --out new",
        "score output.txt",
        "generate bart --path bart/model.pt -s source -t target --cpu --input text",
    ],
)
def test_the_good_input_is_good(command, work, capsys):
    """So that every row above fails for its own reason."""
    if "hf" in command:
        pytest.importorskip("safetensors")
    assert run(shlex.split(command)) == 0, capsys.readouterr().err


def test_the_help_explains_the_exit_status(capsys):
    assert run(["--help"]) == 0
    assert re.search("0 if all went well; 1 for errors.* 2 for a command line.* 130 if", capsys.readouterr().out, re.S)


def test_a_nul_in_an_argument(work, capsys):
    assert run(["convert", "info", "a\0b"]) == 2
    assert_one_message(capsys.readouterr().err, "no argument can have a NUL in it")


class TestSystem:
    """What the operating system refuses."""

    @pytest.mark.parametrize(
        "command",
        [
            "convert to-el model.pt --out new.pt",
            "convert to-hf bart --out new",
            "convert from-hf hf --out new",
            "score output.txt --extract hypo new",
        ],
    )
    def test_a_full_disk(self, command, work, capsys):
        """Files may not grow beyond some bytes, as if the disk were full."""
        if "hf" in command:
            pytest.importorskip("safetensors")
        before = contents(work)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5, hard))
        try:
            status = run(shlex.split(command))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert status == 1
        assert_one_message(capsys.readouterr().err, "File too large. Files may not be so large here")
        assert contents(work) == before

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENAMETOOLONG, errno.ENOTDIR])
    def test_what_and_where_and_what_to_do(self, code):
        message = explain_system(OSError(code, os.strerror(code), "there"))
        assert re.fullmatch(rf"there: {os.strerror(code)}\. .{{20,}}", message)

    def test_other_errors_are_bugs(self, work, monkeypatch):
        """Their traceback is needed."""

        def fail(*unused):
            raise RuntimeError("a bug")

        monkeypatch.setattr(convert, "load_checkpoint", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            main(["convert", "to-el", "model.pt", "--out", "new.pt"])

    @pytest.mark.parametrize(
        ("error", "status", "message"),
        [
            (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
            (MemoryError(), 1, "there is not enough memory"),
            (RuntimeError("can't allocate memory: you tried to allocate 9 bytes"), 1, "there is not enough memory"),
            (OSError("of no number"), 1, "of no number"),
        ],
    )
    def test_whatever_happens_underneath(self, error, status, message, work, monkeypatch, capsys):
        def fail(*unused):
            raise error

        monkeypatch.setattr(convert, "load_checkpoint", fail)
        before = contents(work)
        assert main(["convert", "to-el", "model.pt", "--out", "new.pt"]) == status
        assert_one_message(capsys.readouterr().err, message)
        assert contents(work) == before


class TestStandardOutput:
    COMMAND = ("score", "output.txt", "--extract", "hypo", "-")

    def test_a_full_disk(self, work, monkeypatch, capsys):
        monkeypatch.setattr(sys, "stdout", open("/dev/full", "w"))  # noqa: SIM115
        assert main(self.COMMAND) == 1
        assert_one_message(capsys.readouterr().err, "standard output: No space left on device. Free some space")
        sys.stdout.close()  # which would fail if anything were left to write

    def test_nobody_reads_it(self, work, monkeypatch, capsys):
        reading, writing = os.pipe()
        os.close(reading)
        monkeypatch.setattr(sys, "stdout", os.fdopen(writing, "w"))
        assert main(self.COMMAND) == 1
        assert capsys.readouterr().err == ""
        sys.stdout.close()

    def test_it_is_closed(self, work, monkeypatch, capsys):
        monkeypatch.setattr(sys, "stdout", None)
        assert main(self.COMMAND) == 0
        assert capsys.readouterr().err == ""

    def test_it_has_not_these_characters(self, work, monkeypatch, capsys):
        (work / "output.txt").write_text(OUTPUT.replace("w1", "ü"))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        assert main(self.COMMAND) == 1
        assert_one_message(
            capsys.readouterr().err, "standard output is in ascii, which has no 'ü'. Set PYTHONIOENCODING"
        )

    def test_a_pipe_of_a_shell_is_read(self, work, capsys):
        """As ``<(fairseq-generate ...)`` is."""
        reading, writing = os.pipe()
        os.write(writing, OUTPUT.encode())
        os.close(writing)
        assert main(["score", f"/dev/fd/{reading}", "--extract", "hypo", "-"]) == 0
        os.close(reading)
        assert capsys.readouterr().out == "w1 w2\n"


class TestDamage:
    """Of a checkpoint's file, anywhere in it."""

    def test_a_cut_anywhere(self, work, capsys):
        whole = (work / "model.pt").read_bytes()
        for length in [*range(0, len(whole), len(whole) // 50), len(whole) - 1]:
            (work / "cut.pt").write_bytes(whole[:length])
            assert run(["convert", "info", "cut.pt"]) == 1, length
            assert_one_message(capsys.readouterr().err, "cut.pt")

    @pytest.mark.parametrize("new_torch", [True, False])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_a_bit_anywhere(self, zipped, new_torch, work, capsys, monkeypatch):
        """Refused; or it is where nobody looks, and what is read is what was written.

        By torch's reader, or by this package's own, which stands in for an old torch's.
        """
        if not new_torch:
            monkeypatch.setattr(checkpoint_loading, "_TORCH_REFUSES", False)
        state = torch.load(work / "model.pt")
        torch.save(state, work / "model.pt", _use_new_zipfile_serialization=zipped)
        whole = (work / "model.pt").read_bytes()
        refused = 0
        # The numbers of a file without checksums can't be told to be others.
        end = len(whole) if zipped else whole.index(next(iter(state["model"].values())).numpy().tobytes())
        for place in range(3, end, end // 50):
            (work / "bit.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
            (work / "new.pt").unlink(missing_ok=True)
            status = run(["convert", "to-el", "bit.pt", "--out", "new.pt"])
            said = capsys.readouterr().err
            if status:
                assert_one_message(said, "bit.pt")
                refused += 1
            elif zipped:
                read = torch.load(work / "new.pt")["model"]
                assert all(torch.equal(tensor, read[name]) for name, tensor in state["model"].items()), place
        assert refused > (10 if zipped else 0)

    @pytest.mark.parametrize("new_torch", [True, False])
    def test_a_length_beyond_all_memory(self, new_torch, work, capfd, monkeypatch):
        """C's unpickler takes the memory of one of these strings for the ``bytearray``, and prints an error."""
        if not new_torch:
            monkeypatch.setattr(checkpoint_loading, "_TORCH_REFUSES", False)
        strings = (pickle.SHORT_BINBYTES + bytes([23]) + b"\1" * 23) * 50 + pickle.POP * 50
        huge = pickle.BYTEARRAY8 + (2**62).to_bytes(8, "little")
        (work / "long.pt").write_bytes(pickle.PROTO + bytes([5]) + strings + huge + b"x" + pickle.STOP)
        assert run(["convert", "info", "long.pt"]) == 1
        assert_one_message(capfd.readouterr().err, "long.pt")


class TestFormats:
    """Of checkpoints."""

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"arch": "fconv", "encoder_layers": CODE, "decoder_layers": CODE}, "the architecture fconv"),
            ({"arch": "fconv_self_att_wp", "pretrained": CODE}, "the architecture fconv_self_att_wp"),
            (
                {"arch": "transformer_lm", "character_embeddings": True, "character_filters": CODE},
                "character embeddings",
            ),
        ],
    )
    def test_settings_are_not_run_as_code(self, settings, reason, work, capsys):
        """As fairseq does for some models."""
        state = torch.load(work / "model.pt")
        vars(state["args"]).update(settings)
        torch.save(state, work / "model.pt")
        assert run(["convert", "info", "model.pt"]) == 0
        said = capsys.readouterr().out
        assert "EL-attention: not known, because" in said and f"model.pt has {reason}, for which it may." in said
        assert not (work / "HACKED").exists()

    def test_paths_in_settings_are_not_read(self, work, capsys):
        """Embeddings that training began with: a FIFO would never end."""
        os.mkfifo(work / "pipe")
        state = torch.load(work / "model.pt")
        state["args"].encoder_embed_path = state["args"].decoder_embed_path = "pipe"
        torch.save(state, work / "model.pt")
        assert run(["convert", "info", "model.pt"]) == 0
        assert "EL-attention: supported" in capsys.readouterr().out

    def test_files_without_checksums_are_read_and_named(self, work, capsys):
        torch.save(torch.load(work / "model.pt"), work / "old.pt", _use_new_zipfile_serialization=False)
        for name, checked in (("model.pt", True), ("old.pt", False)):
            assert main(["convert", "info", name]) == 0
            assert ("has no checksums" in capsys.readouterr().out) != checked

    @pytest.mark.skipif(not hasattr(torch.serialization, "set_crc32_options"), reason="torch always writes checksums")
    def test_checksums_that_torch_left_out(self, work, capsys):
        state = torch.load(work / "model.pt")
        torch.serialization.set_crc32_options(False)
        try:
            torch.save(state, work / "fast.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        assert main(["convert", "info", "fast.pt"]) == 0
        assert "has no checksums" in capsys.readouterr().out

    @pytest.mark.parametrize("zipped", [True, False])
    def test_other_classes_are_refused_with_any_torch(self, zipped, work, monkeypatch):
        """By this package's own reader, which stands in where torch's is too old to refuse them."""
        monkeypatch.setattr(checkpoint_loading, "_TORCH_REFUSES", False)
        state = torch.load(work / "model.pt")
        torch.save(state, work / "good.pt", _use_new_zipfile_serialization=zipped)
        loaded = checkpoint_loading.load_listed_classes("good.pt")
        assert vars(loaded["args"]) == vars(state["args"])
        assert all(torch.equal(tensor, loaded["model"][name]) for name, tensor in state["model"].items())
        torch.save({**state, "extra_state": Hostile()}, work / "bad.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(pickle.UnpicklingError, match=rf"GLOBAL {os.system.__module__}.system was not an allowed"):
            checkpoint_loading.load_listed_classes("bad.pt")
        assert not (work / "HACKED").exists()
        example = checkpoint_loading.load_listed_classes(EXAMPLE / "model.pt")
        assert example["model"].keys() == torch.load(EXAMPLE / "model.pt")["model"].keys()


def test_torchs_advice_is_never_repeated():
    said = (
        "Weights only load failed. In PyTorch 2.6, we changed the default value of the `weights_only` argument. "
        "Re-running `torch.load` with `weights_only` set to `False` will likely succeed, but it can result in "
        "arbitrary code execution. Do it only if you got the file from a trusted source.\nPlease file an issue.\n"
        "WeightsUnpickler error: Unsupported operand 149. Please use `torch.serialization.add_safe_globals`.\n"
    )
    assert summary_of(pickle.UnpicklingError(said)) == "UnpicklingError: Unsupported operand 149."
    assert "weights_only" not in explain_loading("x.pt", RuntimeError(said.partition("Please file")[0]))
