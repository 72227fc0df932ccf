"""Commands that draw or write reports say that they can't before they compute anything."""

from __future__ import annotations

import pytest
from command_lines import call

COMMANDS = {
    "plan": ["plan", "--arch", "bart_large", "--beam", "4", "--src-len", "9", "--tgt-len", "9", "--dtype", "fp32"],
    "slim": ["slim_training.py"],
    "topk": ["topk_layers.py"],
    "bench": ["bench", "DATA", "--path", "model.pt"],
}

COMPUTING = (
    "fairseq_el.cli.bench.compare_programs",
    "fairseq_el.cli.plan.Plan",
    "slim_training.measure_slim_training",
    "topk_layers.measure_topk_layers",
)


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """What a command says to options, computing nothing; ``file`` is there, and ``a.png``, which is a directory."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    for name in COMPUTING:
        monkeypatch.setattr(name, None)
    (tmp_path / "file").write_text("")
    (tmp_path / "model.pt").write_text("")
    (tmp_path / "DATA").mkdir()
    (tmp_path / "a.png").mkdir()

    def run(command, *options):
        assert call([*COMMANDS[command], *options]) == 2
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("command", ["plan", "slim", "topk"])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("x.txt", "--plot must name a .png, .pdf or .svg file; got x.txt"),
        ("x", "--plot must name a .png, .pdf or .svg file; got x"),
        ("file/x.png", "--plot file/x.png must be in a directory that exists or can be made; "),
        ("a.png", "--plot must name a file; a.png is a directory"),
    ],
)
def test_pictures(command, path, message, refused):
    assert message in refused(command, "--plot", path)


@pytest.mark.parametrize("command", ["bench", "slim", "topk"])
def test_directories(command, refused, tmp_path):
    assert "--out must be a directory; file is a file" in refused(command, "--out", "file")
    assert "--out file/x must be in a directory that exists or can be made" in refused(command, "--out", "file/x")
    name = "bench" if command == "bench" else command
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{name}.md").write_text("")
    assert f"--out out has {name}.md already; choose another one, or add --force" in refused(command, "--out", "out")
