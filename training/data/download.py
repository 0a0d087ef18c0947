"""Downloads that survive a broken line: resumed, verified, unpacked at once or not at all.

pooch keeps the registry and checks the checksums; the downloader that it is given goes on where it stopped, which
pooch's own do not.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pooch

from ...engine.errors import InputError, OutputError
from . import bbbc006

BASE_URL = "https://data.broadinstitute.org/bbbc/BBBC006/"
CHECKSUMS = "sha256sums.txt"  # beside the planes, in the format of sha256sum: what was downloaded
CHUNK = 1 << 20
TIMEOUT_S, TRIES = 60, 5
Tell = Callable[[int, int | None], None]  # (bytes there, bytes in all if known)
_AGAIN = "run the same command again: it goes on where it stopped"


def fetch_bbbc006(
    root: Path,
    planes: Sequence[int] = range(bbbc006.PLANES),
    base_url: str = BASE_URL,
    checksums: Path | None = None,
    keep_zips: bool = False,
    tell: Callable[[str], None] = print,
    progress: Callable[[str], Tell] = lambda name: lambda there, total: None,
) -> None:
    """Download, verify and unpack planes of BBBC006 into `root`; a plane that is there and whole is left.

    Parameters
    ----------
    checksums : file of sha256sum lines; by default that which earlier downloads into `root` left, if any.
    progress : makes the function that is told of each file's bytes.

    Raises
    ------
    InputError
        No network, no such file, a damaged archive, a wrong checksum, an incomplete plane.
    OutputError
        The folder cannot be written, for example because the disk is full.
    """
    pooch.get_logger().setLevel("ERROR")  # what it says is said here, on one line
    root = Path(root)
    with _writing(root):
        root.mkdir(parents=True, exist_ok=True)
    known = read_checksums(checksums or root / CHECKSUMS, required=checksums is not None)
    for z in planes:
        folder = bbbc006.plane_folder(root, z)
        if folder.is_dir():
            bbbc006.verify(root, [z])
            tell(f"{folder.name}: complete")
            continue
        name = f"{folder.name}.zip"
        archive = root / name
        if not archive.exists():
            # pooch verifies what `resume` brought against the known hash; without one it only tells it.
            try:
                pooch.retrieve(
                    base_url.rstrip("/") + "/" + name,
                    known_hash=known.get(name),
                    fname=name,
                    path=root,
                    downloader=Resuming(archive, progress(name)),  # type: ignore[arg-type]
                )
            except ValueError as error:
                raise InputError(archive, "has another checksum than it should", "delete it and try again") from error
        elif name in known and sha256(archive) != known[name]:
            raise InputError(archive, "has another checksum than it should", "delete it and try again")
        unpack(archive, folder)
        bbbc006.verify(root, [z])
        if name not in known:
            known[name] = sha256(archive)
            with _writing(root), open(root / CHECKSUMS, "a", encoding="utf-8") as file:
                file.write(f"{known[name]}  {name}\n")
        if not keep_zips:
            archive.unlink()
        tell(f"{folder.name}: {bbbc006.FILES} images")


class Resuming:
    """A downloader for pooch (url, output, pooch) that goes on where it stopped."""

    def __init__(self, archive: Path, progress: Tell) -> None:
        self.archive, self.progress = archive, progress

    def __call__(self, url: str, output: str, pooch: object) -> None:
        resume(url, self.archive, Path(output), self.progress)


def resume(url: str, archive: Path, output: Path, progress: Tell) -> None:
    """Download `url` to `output`, going on with what an earlier try left in `archive`.part.

    The server's ETag or date is kept beside it: a file that changed meanwhile, or a server that knows no ranges, starts
    anew. Raises InputError and OutputError.
    """
    part, tag = archive.with_name(archive.name + ".part"), archive.with_name(archive.name + ".tag")
    for last in range(1, TRIES + 1):
        there = part.stat().st_size if part.exists() and tag.exists() else 0
        headers = {"Range": f"bytes={there}-", "If-Range": tag.read_text(encoding="utf-8")} if there else {}
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
                total = _receive(answer, part, tag, there, progress)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # all of it was there already, or more: it is not to be believed
                part.unlink(missing_ok=True)
                continue
            raise InputError(url, f"the server says {error.code} {error.reason}", "check the address") from error
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            if last == TRIES or isinstance(error, urllib.error.URLError):
                raise InputError(url, f"cannot be downloaded ({reason})", _AGAIN) from error
            continue
        if total is None or part.stat().st_size == total:
            os.replace(part, output)
            tag.unlink(missing_ok=True)
            return
    raise InputError(url, "broke off again and again", _AGAIN)


def _receive(answer, part: Path, tag: Path, there: int, progress: Tell) -> int | None:
    """Write an answer behind what is there, or anew if the server sends the whole. Returns the size of the whole."""
    if answer.status != 206:
        there = 0
    length = answer.headers.get("Content-Length")
    total = there + int(length) if length else None
    with _writing(part):
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        tag.unlink(missing_ok=True)
        if mark and not mark.startswith("W/"):  # a weak tag names no bytes
            tag.write_text(mark, encoding="utf-8")
        with open(part, "ab" if there else "wb") as file:
            # A connection that is cut ends the reading early; the caller compares the sizes.
            while chunk := answer.read1(CHUNK):
                file.write(chunk)
                there += len(chunk)
                progress(there, total)
    return total


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the images of a plane's archive into `folder`, which appears whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    with _writing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            with zipfile.ZipFile(archive) as content:
                for entry in content.infolist():
                    name = Path(entry.filename).name  # no path inside the archive leaves the folder
                    if bbbc006.NAME.fullmatch(name):
                        with content.open(entry) as source, open(partial / name, "wb") as target:
                            shutil.copyfileobj(source, target)  # reading to the end checks the CRC
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise InputError(archive, f"is a damaged archive ({error})", "delete it and try again") from error
        os.replace(partial, folder)


def read_checksums(path: Path, required: bool = True) -> dict[str, str]:
    """Names and SHA-256 of a sha256sum file; without `required` a missing one is empty. Raises InputError."""
    if not required and not path.exists():
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, f"cannot be read ({error})", "give a file written by sha256sum") from error
    digests = {}
    for line in filter(str.strip, lines):
        digest, _, name = line.partition(" ")
        if len(digest) != 64 or not name.strip():
            raise InputError(path, f"is no list of checksums (line {line!r})", "give a file written by sha256sum")
        digests[name.strip().lstrip("*")] = digest.lower()
    return digests


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _writing(path: Path):
    try:
        yield
    except OSError as error:
        if isinstance(error, ConnectionError | TimeoutError | urllib.error.URLError):
            raise
        raise OutputError(
            path, f"cannot be written ({error.strerror or error})", "free or choose another disk"
        ) from error
