"""defocus-data against a real HTTP server: resumed, refused, verified."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pooch", reason='needs Pooch: pip install ".[train]"')

from defocus.engine.errors import InputError
from defocus.training.cli.data import parse_planes
from defocus.training.data import bbbc006, download

from ...helpers.calling import call

NAME = "BBBC006_v1_images_z_16.zip"


def archive_of_a_plane(lost: int = 0) -> bytes:
    """A plane's archive: 1536 tiny files in a folder, as the Broad packs them."""
    content = io.BytesIO()
    noise = np.random.default_rng(0)
    with zipfile.ZipFile(content, "w") as packed:
        keys = [(well, site, channel) for well in bbbc006.WELLS for site in (1, 2) for channel in (1, 2)]
        for well, site, channel in keys[lost:]:
            packed.writestr(
                f"BBBC006_v1_images_z_16/mcf-z-stacks-03212011_{well}_s{site}_w{channel}0a-1.tif", noise.bytes(64)
            )
        packed.writestr("../outside.tif", b"must not be written")
    return content.getvalue()


WHOLE = archive_of_a_plane()


class Server(ThreadingHTTPServer):
    """Serves `content`; may cut connections, ignore ranges, or change its ETag."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.ranges, self.cuts = WHOLE, '"one"', True, 0
        self.asked: list[str | None] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if not self.path.endswith(NAME):
            self.send_error(404)
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range") == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)
        server.sent += len(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture(autouse=True)
def fresh():
    bbbc006.files_of_plane.cache_clear()


def fetch(root: Path, server: Server, **options) -> list[str]:
    lines: list[str] = []
    download.fetch_bbbc006(root, [16], server.url, tell=lines.append, **options)
    return lines


def test_a_plane_is_downloaded_verified_and_unpacked(server, tmp_path):
    assert fetch(tmp_path / "data", server) == ["BBBC006_v1_images_z_16: 1536 images"]
    folder = bbbc006.plane_folder(tmp_path / "data", 16)
    assert len(list(folder.iterdir())) == 1536
    assert not list(tmp_path.rglob("outside.tif"))
    assert {path.name for path in (tmp_path / "data").iterdir()} == {folder.name, download.CHECKSUMS}
    assert NAME in (tmp_path / "data" / download.CHECKSUMS).read_text()
    assert fetch(tmp_path / "data", server) == ["BBBC006_v1_images_z_16: complete"]
    assert len(server.asked) == 1  # what is there is not asked for again


def test_a_broken_line_is_taken_up_where_it_broke(server, tmp_path):
    server.cuts = 2
    fetch(tmp_path, server)
    first, second, third = server.asked
    assert first is None
    assert second == f"bytes={len(WHOLE) // 2}-"
    assert third is not None
    assert server.sent == len(WHOLE)  # not a byte twice


def test_a_new_process_goes_on_where_the_last_was_killed(server, tmp_path):
    server.cuts = download.TRIES
    with pytest.raises(InputError, match=r"broke off again and again.*run the same command again"):
        fetch(tmp_path, server)
    left = (tmp_path / f"{NAME}.part").stat().st_size
    assert left > len(WHOLE) // 2
    fetch(tmp_path, server)
    assert server.asked[-1] == f"bytes={left}-"


@pytest.mark.parametrize("change", ["no ranges", "another file"])
def test_a_server_that_cannot_go_on_sends_it_all_again(server, tmp_path, change):
    server.cuts = download.TRIES
    with pytest.raises(InputError):
        fetch(tmp_path, server)
    if change == "no ranges":
        server.ranges = False
    else:
        server.etag = '"two"'
    fetch(tmp_path, server, keep_zips=True)
    assert (tmp_path / NAME).read_bytes() == WHOLE


def test_archives_that_are_not_right(server, tmp_path):
    server.content = WHOLE[:5000] + bytes(200) + WHOLE[5200:]
    with pytest.raises(InputError, match=rf"{NAME}: is a damaged archive"):
        fetch(tmp_path / "damaged", server)
    assert not bbbc006.plane_folder(tmp_path / "damaged", 16).exists()
    server.content = archive_of_a_plane(lost=3)
    with pytest.raises(InputError, match="has 1533 of 1536 images; the first missing is a01 s1 w1"):
        fetch(tmp_path / "incomplete", server)


def test_checksums(server, tmp_path):
    fetch(tmp_path / "data", server, keep_zips=True)
    sums = tmp_path / "data" / download.CHECKSUMS
    fetch(tmp_path / "again", server, checksums=sums)
    server.content = archive_of_a_plane(lost=1)
    with pytest.raises(InputError, match="has another checksum"):
        fetch(tmp_path / "changed", server, checksums=sums)
    sums.write_text("no checksums\n")
    with pytest.raises(InputError, match="is no list of checksums"):
        fetch(tmp_path / "third", server, checksums=sums)


def command(*arguments: object) -> subprocess.CompletedProcess:
    line = [Path(sys.executable).with_name("defocus-data"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300)


def test_the_command(server, tmp_path):
    done = command("bbbc006", tmp_path / "data", "--planes", "16", "--base-url", server.url)
    assert done.returncode == 0, done.stderr
    assert "1536 images" in done.stdout
    (tmp_path / "file").touch()
    for wrong, cause in (
        ((tmp_path / "d2", "--planes", "17", "--base-url", server.url), "404"),
        ((tmp_path / "d3", "--planes", "16", "--base-url", "http://127.0.0.1:9/"), "cannot be downloaded"),
        ((tmp_path / "d4", "--planes", "40"), "has the planes 0 to 33"),
        ((tmp_path / "file" / "below", "--planes", "16", "--base-url", server.url), "cannot be written"),
    ):
        done = call("defocus.training.cli.data", "defocus-data", "bbbc006", *wrong)
        assert done.returncode == 1, done.stderr
        assert cause in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    version = call("defocus.training.cli.data", "defocus-data", "--version").stdout
    assert re.fullmatch(r"defocus-data \d+\.\d+\.\d+\S*", version.strip())


def test_planes_are_written_as_ranges_and_lists():
    assert parse_planes("0-2,16") == [0, 1, 2, 16]
    with pytest.raises(InputError, match="names no planes"):
        parse_planes("all")
