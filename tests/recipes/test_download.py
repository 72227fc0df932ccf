"""Step ``download``, from a server that is slow, stops, or sends something else."""

from __future__ import annotations

import hashlib
import http.server
import multiprocessing
import re
import threading
import time

import pytest
from commands import kill_in_the_middle
from recipe_files import write_recipe

from fairseq_el.cli import main

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server(http.server.ThreadingHTTPServer):
    """Sends ``CONTENT``; misbehaves as ``how`` says."""

    how = ""
    ranges: list


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        begin = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and self.server.how != "no ranges" else 0
        if self.server.how == "gone" or begin >= len(CONTENT):
            self.send_error(404 if self.server.how == "gone" else 416)
            return
        body = CONTENT[begin:] if self.server.how != "another file" else b"?" * len(CONTENT)
        if self.server.how.startswith("to "):
            self.send_response(302)
            self.send_header("Location", self.server.how[len("to ") :])
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if self.server.how != "length ":
            _, _, length = self.server.how.partition("length ")
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.server.how in ("stops", "stalls"):
            self.wfile.write(body[:HALF])
            self.wfile.flush()
            time.sleep(60 if self.server.how == "stalls" else 0)
            return
        self.wfile.write(body)

    def log_message(self, *unused):
        pass


@pytest.fixture()
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.ranges = True, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture()
def config(server, tmp_path):
    return write_config(tmp_path, f"http://127.0.0.1:{server.server_address[1]}/file")


def write_config(directory, url):
    names = ["source", "target", "model.pt", "dict.txt"]
    files = {name: {"where": f"Ask for {name}."} for name in names}
    files["sub/file.bin"] = {"url": url, "sha256": SHA256}
    path = write_recipe(directory / "recipe.yaml", files=files, text=["source", "target"])
    (directory / "work" / "sub").mkdir(parents=True)
    for name in names:
        (directory / "work" / name).write_text("x")
    return path


def download(config, capsys) -> str:
    status = main(["recipe", "download", str(config), "--work", str(config.parent / "work")])
    printed = capsys.readouterr()
    return printed.out if status == 0 else printed.err


def files(config):
    return sorted(path.name for path in (config.parent / "work" / "sub").iterdir())


def test_downloads_once(server, config, capsys):
    assert "sub/file.bin: downloaded, checksum is right" in download(config, capsys)
    printed = download(config, capsys)
    assert "sub/file.bin: is there, checksum is right" in printed and "model.pt: is there\n" in printed
    assert server.ranges == [None] and files(config) == ["file.bin"]
    assert (config.parent / "work" / "sub" / "file.bin").read_bytes() == CONTENT


def test_goes_on_where_it_stopped(server, config, capsys):
    server.how = "stops"
    message = download(config, capsys)
    assert f"it goes on after the {HALF:,} bytes it has" in message
    assert "file.bin" not in files(config)
    server.how = ""
    assert "downloaded" in download(config, capsys)
    assert server.ranges == [None, f"bytes={HALF}-"] and files(config) == ["file.bin"]


def test_starts_over_where_the_server_knows_no_ranges(server, config, capsys):
    server.how = "stops"
    download(config, capsys)
    server.how = "no ranges"
    assert "downloaded" in download(config, capsys)
    assert (config.parent / "work" / "sub" / "file.bin").read_bytes() == CONTENT


def test_all_bytes_were_there_but_not_yet_renamed(server, config, capsys):
    part = config.parent / "work" / "sub" / f".file.bin.{SHA256[:12]}.part"
    part.write_bytes(CONTENT)
    assert "downloaded" in download(config, capsys)
    part.write_bytes(CONTENT + b"more")
    (config.parent / "work" / "sub" / "file.bin").unlink()
    assert "must have sha256" in download(config, capsys)
    assert "downloaded" in download(config, capsys)


def test_killed_while_it_downloads(server, config, capsys):
    server.how = "stalls"
    work = config.parent / "work"
    arguments = ["recipe", "download", str(config), "--work", str(work)]
    kill_in_the_middle(
        arguments, lambda: any(path.stat().st_size for path in (work / "sub").glob(".file.bin.unfinished-*/*.part"))
    )
    assert "file.bin" not in files(config)
    server.how = ""
    assert "downloaded" in download(config, capsys)
    assert (work / "sub" / "file.bin").read_bytes() == CONTENT
    assert server.ranges[0] is None and server.ranges[1].startswith("bytes=") and files(config) == ["file.bin"]


def test_two_processes_download(server, config, capsys):
    """The second is told which one does it, and takes nothing away from it."""
    server.how = "stalls"
    arguments = ["recipe", "download", str(config), "--work", str(config.parent / "work")]
    first = multiprocessing.get_context("fork").Process(target=main, args=(arguments,), daemon=True)
    first.start()
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in (config.parent / "work" / "sub").glob(".file.bin.un*/*.part")):
        assert first.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    before = files(config)
    assert f"sub/file.bin: process {first.pid} on " in download(config, capsys)
    assert files(config) == before and len(server.ranges) == 1
    first.kill()
    first.join()
    server.how = ""
    assert "downloaded" in download(config, capsys) and files(config) == ["file.bin"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("another file", f"must have sha256 {SHA256}; it has [0-9a-f]{{64}}. It was deleted"),
        ("gone", f"answers 404 Not Found. Get the file elsewhere and put it there; its sha256 is {SHA256}"),
    ],
)
def test_other_answers(how, message, server, config, capsys):
    server.how = how
    assert re.search(message, download(config, capsys))
    assert files(config) == []


def test_offline(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    config = write_config(tmp_path, "http://127.0.0.1:9/file")
    (tmp_path / "work" / "model.pt").unlink()
    message = download(config, capsys)
    assert "2 of 5 files are not there yet. They are looked for in" in message
    assert re.search(
        "sub/file.bin: http://127.0.0.1:9/file can't be reached, or the connection broke .*refused", message
    )
    assert "model.pt: you must put it there. Ask for model.pt." in message
    (tmp_path / "work" / "sub" / "file.bin").write_bytes(CONTENT)  # brought by hand
    (tmp_path / "work" / "model.pt").write_text("x")
    assert "sub/file.bin: is there" in download(config, capsys)


def test_a_file_that_is_there_is_another_one(config, capsys):
    (config.parent / "work" / "sub" / "file.bin").write_bytes(b"something else")
    assert "sub/file.bin: what is there must have sha256" in download(config, capsys)
    assert (config.parent / "work" / "sub" / "file.bin").read_bytes() == b"something else"


@pytest.mark.parametrize("length", ["", "many", "-5", "1e3", "0x10", "9" * 400, "9" * 5000, "+"])
def test_a_length_that_is_none_is_not_looked_at(length, server, config, capsys):
    """The checksum says whether all of it came."""
    server.how = f"length {length}"
    assert "sub/file.bin: downloaded, checksum is right" in download(config, capsys)


def test_a_length_that_is_wrong(server, config, capsys):
    server.how = f"length {len(CONTENT) + 5}"
    assert f"{len(CONTENT):,} of {len(CONTENT) + 5:,} bytes came" in download(config, capsys)


@pytest.mark.parametrize("address", ["http://[::1", "file:///etc/passwd", "nonsense://x", "http://a..b/"])
def test_sent_on_to_what_is_no_address(address, server, config, capsys):
    server.how = f"to {address}"
    said = download(config, capsys)
    assert "sub/file.bin: " in said and "Traceback" not in said
    assert files(config) == []
