"""The command line's edge: the one place where an error becomes a line on stderr and an exit code.

Exit codes: 0 done; 1 something failed (the line says what); 2 the command was typed wrongly; 130 Ctrl-C.
Set DEFOCUS_TRACEBACK=1 to see the traceback of an unexpected error, and what libraries warn of.
"""

from __future__ import annotations

import inspect
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn

import typer

from .._version import __version__
from ..errors import DefocusError, first_line, is_full, old_packages, one_line, shortage
from ..threads import check_memory_for_blas, one_thread_for_blas

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        say(f"{context.info_name} {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


class _App(typer.Typer):
    """Paragraphs of a command's help are filled anew, instead of broken where the source breaks them."""

    def command(self, *arguments: Any, **settings: Any) -> Callable[[Any], Any]:
        register = super().command(*arguments, **settings)

        def filled(command: Any) -> Any:
            paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
            command.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
            return register(command)

        return filled


def new_app(completion: bool = False, cls: Any = None) -> typer.Typer:
    """An application of one command, or more."""
    helped = {"help_option_names": ["-h", "--help"]}
    return _App(cls=cls, add_completion=completion, pretty_exceptions_enable=False, context_settings=helped)


def run(app: typer.Typer, only_new_packages: bool = True, blas_threads: bool = True) -> NoReturn:
    """Run a command-line application to its exit: the whole body of a `main()`.

    The command's return value, if it is an int, is the exit code. Packages that are too old are told of first, or
    else each file would be called damaged; a command that tells of them itself switches that off. Without
    `blas_threads`, numpy computes in one thread.
    """
    if not blas_threads:
        one_thread_for_blas()
    if not os.environ.get("DEFOCUS_TRACEBACK"):
        _quiet_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name must not end a program whose log has another code page
            stream.reconfigure(errors="backslashreplace")
    with one_line_errors():
        if not blas_threads:
            check_memory_for_blas()
        if only_new_packages and (error := old_packages()):
            raise error
        code = app(standalone_mode=False, prog_name=program())  # typer's own handling would print a box of many lines
        if sys.stdout is not None:
            sys.stdout.flush()  # or a disk that is full is told of by the interpreter, with an exit code of its own
        sys.exit(code if isinstance(code, int) else 0)


def _quiet_libraries() -> None:
    """Libraries print no warnings and log lines, and threads of theirs that end with an error one line."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what nobody else takes
    threading.excepthook = _tell_of_thread


def _tell_of_thread(ended: threading.ExceptHookArgs) -> None:
    if not issubclass(ended.exc_type, SystemExit):
        error = first_line(ended.exc_value or ended.exc_type.__name__)
        say(f"{program()}: a thread ended ({ended.exc_type.__name__}: {error})", err=True)


def say(text: str, err: bool = False) -> None:
    """Print one line for people, on stdout or stderr: nothing in it can steer the terminal or look like another line.

    Every command prints through it, but for JSON and files that are printed whole.
    """
    print(one_line(text), file=sys.stderr if err else sys.stdout, flush=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn whatever is raised inside into one line on stderr and `SystemExit`. Also usable as a decorator."""
    try:
        yield
    except SystemExit:
        raise
    except KeyboardInterrupt:
        _leave("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read our output (`| head`) has left
        _give_up_stdout()
        sys.exit(FAILED)
    except DefocusError as error:
        _leave(str(error), FAILED)
    except BaseException as caught:
        error: Any = caught
        if _asks_to_leave(error):
            sys.exit(getattr(error, "exit_code", INTERRUPTED))  # Abort, the one without a code, is click's Ctrl-C
        if hasattr(error, "format_message"):  # a usage error of click, or of the click inside typer
            _leave(f"{error.format_message()} (--help shows the options)", getattr(error, "exit_code", USAGE))
        if os.environ.get("DEFOCUS_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.filename is None and is_full(error):
            _leave("output cannot be written: the disk is full; free some space or send it elsewhere", FAILED)
        if problem := shortage(error):
            _leave("; ".join(problem), FAILED)
        _leave(
            f"unexpected error ({type(error).__name__}: {error}); please report it, "
            "run with DEFOCUS_TRACEBACK=1 to see the traceback",
            FAILED,
        )


def _asks_to_leave(error: BaseException) -> bool:
    """Whether typer or click only asks to leave. By name, because their modules move from release to release."""
    return type(error).__name__ in ("Exit", "Abort") and isinstance(error, RuntimeError)


def _give_up_stdout() -> None:
    """Let what is left for stdout go, if it cannot be written: the interpreter would complain on its way out."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (AttributeError, ValueError):  # there is none, or it is closed
        pass


def program() -> str:
    """The program as it was called: defocus-run, "defocus run", or defocus for `python -m defocus`."""
    path = sys.argv[0] or "defocus"
    name = os.path.basename(path).removesuffix(".exe")
    return os.path.basename(os.path.dirname(path)) if name == "__main__.py" else name


def _leave(message: str, code: int) -> NoReturn:
    with suppress(OSError):
        say(f"{program()}: {' '.join(message.split())}", err=True)
    _give_up_stdout()
    raise SystemExit(code) from None
