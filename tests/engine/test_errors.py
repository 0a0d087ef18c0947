"""Errors: one line for people, a code for programs."""

from __future__ import annotations

import errno
import pickle

import numpy as np
import pytest
import tifffile

from defocus.engine.cli import _app
from defocus.engine.errors import ErrorCode, InputError, MissingExtraError, OutOfMemoryError
from defocus.engine.tiff.integrity import check_complete


def test_an_error_has_the_code_of_its_kind_or_its_own_also_in_another_process():
    plain, own = InputError("a.tif", "x", "y"), InputError("a.tif", "x", "y", ErrorCode.EMPTY)
    assert (plain.code, own.code, str(own)) == (ErrorCode.INPUT, ErrorCode.EMPTY, "a.tif: x; y")
    assert OutOfMemoryError("GPU", "x", "y").code == ErrorCode.MEMORY
    for error in (plain, own, MissingExtraError("torch", "train", "training")):  # as Dask sends them
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.code) == (type(error), str(error), error.code)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, ErrorCode.MISSING),
        (b"", ErrorCode.EMPTY),
        (b"text", ErrorCode.NOT_TIFF),
        (bytes(100), ErrorCode.INCOMPLETE),
        (-40, ErrorCode.TRUNCATED),
    ],
)
def test_what_is_wrong_with_a_file_is_told_by_code_whatever_its_name(tmp_path, content, code):
    path = tmp_path / "empty, truncated, not a TIFF.tif"
    if isinstance(content, int):
        tifffile.imwrite(path, np.zeros((40, 50), np.uint16))
        content = path.read_bytes()[:content]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        check_complete(path)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("can't start new thread"), "not enough threads; raise the limit"),
        (MemoryError(), "not enough memory; use a smaller --tile"),
        (ImportError("libx.so: failed to map segment from shared object"), "not enough memory; use"),
        (OSError(errno.EMFILE, "Too many open files"), "not enough file descriptors; raise the limit"),
    ],
)
def test_a_shortage_is_told_as_that(error, says, capsys):
    with pytest.raises(SystemExit), _app.one_line_errors():
        raise error
    assert says in capsys.readouterr().err
