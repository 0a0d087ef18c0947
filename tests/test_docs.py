"""The documentation against the code: commands, options, files and links that it names exist."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .helpers import commands_page

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "src/defocus/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MODULES = {
    "defocus-watch": "defocus.watcher.cli",
    "defocus-run": "defocus.engine.cli.run",
    "defocus-train": "defocus.training.cli.train",
    "defocus-data": "defocus.training.cli.data",
    "defocus-evaluate": "defocus.training.cli.evaluate",
    "defocus-doctor": "defocus.engine.cli.doctor",
    "defocus-export": "defocus.export.cli",
}


@functools.cache
def help_of(command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", MODULES[command], "--help"],
        capture_output=True,
        text=True,
        timeout=300,
        env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", MODULES)
def test_every_command_has_help_and_stands_in_the_readme(command):
    assert "Usage" in help_of(command)
    assert f"`{command}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_entry_points_are_those_of_the_readme():
    assert commands_page.modules() == MODULES


def options_in(page: Path) -> list[tuple[str, str]]:
    """(command, option) for each option that a line of code in a page gives to one of our commands."""
    found = set()
    for line in page.read_text(encoding="utf-8").splitlines():
        for command in MODULES:
            for match in re.finditer(rf"{command}\b([^`|#]*)", line):
                found |= {(command, option) for option in re.findall(r"(?<!\S)(--?[a-z][a-z0-9-]*)", match.group(1))}
    return sorted(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_option_in_the_docs_exists(page):
    for command, option in options_in(page):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", help_of(command)), f"{command} {option}"


def test_the_page_of_commands_has_what_the_parsers_take():
    assert commands_page.PAGE.read_text(encoding="utf-8") == commands_page.page(), "make commands writes it anew"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_local_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
            # The site has the pages of docs only: name any other file as code.
            assert page.parent == ROOT or (ROOT / "docs") in (page.parent / target).resolve().parents, target


def test_what_the_docs_install_is_a_clone_with_extras_that_exist():
    """The package index has no defocus yet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for page in PAGES:
        for what, extras in re.findall(r'pip install "([^"\[]*)\[([^\]]*)\]"', page.read_text(encoding="utf-8")):
            assert what == ".", page
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), page


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`?make ([a-z]+)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_calls_what_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in ("check", "docs", "package", "test"):
        assert f"make {target}\n" in script


def promises() -> dict[str, list[str]]:
    """Number of each promise of the page, with the tests that it names."""
    text = (ROOT / "docs" / "reference" / "promises.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (P\d+) .+\n((?:(?!^## ).*\n)*)", text, re.MULTILINE)
    return {number: re.findall(r"^- `(\S+)`", section, re.MULTILINE) for number, section in sections}


def test_every_promise_is_held_by_tests_that_exist():
    assert list(promises()) == [f"P{number}" for number in range(1, 14)]
    for number, tests in promises().items():
        assert tests, number
        for test in tests:
            path, name = test.split("::")
            assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), test


def test_every_promise_that_is_cited_is_defined():
    for room in ("engine", "watcher", "tests", "docs"):
        for path in [*(ROOT / room).rglob("*.py"), *(ROOT / room).rglob("*.md")]:
            text = path.read_text(encoding="utf-8")
            cited = re.findall(r"(?<![\w-])P\d+\b", text)
            cited += [f"P{number}" for number in re.findall(r"^def test_p(\d+)_", text, re.MULTILINE)]
            assert set(cited) <= set(promises()), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_is_named_exists(page):
    """Paths from the root, as code: `engine/errors.py`."""
    rooms = "engine|watcher|training|export|tests|benchmarks|demo|docs|pipelines|src"
    text = page.read_text(encoding="utf-8")
    for path in re.findall(rf"(?<!-o )(?<=[`\s(])((?:{rooms})/[\w./-]+\.(?:py|md|toml|sh|c|cu|onnx|pt))\b", text):
        assert "NAME" in path or (ROOT / path).exists(), path


def test_the_site_has_every_page():
    """`make docs` says the same; here it needs no packages."""
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        assert site.count(f" {page.relative_to(ROOT / 'docs').as_posix()}\n") == 1, page


def test_what_an_index_shows_has_no_link_that_only_a_checkout_can_follow():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / project["readme"]).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]*)\)|(?:src|href)=.([^\"']*)", text)
    assert all(target.startswith("https://") for pair in targets for target in pair if target)
    for extra in re.findall(r"^\| (`.+`) \|", text, re.MULTILINE):
        assert set(re.findall(r"`(\w+)`", extra)) <= set(project["optional-dependencies"])


def test_what_is_cited_is_this_version():
    from defocus import __version__

    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def modules_of_the_tree() -> list[str]:
    """The modules that the tree on the page of the architecture names, in its order."""
    text = (ROOT / "docs" / "reference" / "architecture.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found, folders = [], {}
    for indent, name, line in re.findall(r"^( *)(\S+)(.*)$", tree, re.MULTILINE):
        if name.endswith("/"):
            folders = {depth: folder for depth, folder in folders.items() if depth < len(indent)} | {len(indent): name}
        else:
            assert line.strip(), f"{name}: say what it does"
            found.append("".join(folder for depth, folder in sorted(folders.items()) if depth < len(indent)) + name)
    return found


def test_the_tree_names_every_module():
    named = modules_of_the_tree()
    assert len(named) == len(set(named))
    there = {
        path.relative_to(ROOT).as_posix(): path
        for room in ("src/defocus", "engine", "watcher", "training", "export")
        for path in (ROOT / room).rglob("*.py")
    }
    assert set(named) <= set(there), "named, but not there"
    # An __init__.py of a docstring and little more needs no line.
    small = {name for name, path in there.items() if path.name == "__init__.py" and path.stat().st_size < 1000}
    assert set(there) - set(named) - small == set(), "add a line to docs/reference/architecture.md"


def test_the_reference_has_every_public_name():
    import defocus

    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    for name in defocus.__all__:
        assert name.startswith("_") or f"::: defocus.{name}\n" in page, name
        assert name.startswith("_") or getattr(defocus, name).__doc__


MODEL_TABLES = ("heldout", "heldout_twins", "near_focus", "beads", "trust", "tiles", "latency")


@pytest.mark.parametrize("name", MODEL_TABLES)
def test_a_table_of_the_default_model_was_made_with_the_shipped_one(name):
    """Another model was exported: make the tables again with `make results`."""
    shipped = hashlib.sha256((ROOT / "engine" / "model" / "default.onnx").read_bytes()).hexdigest()[:16]
    text = (ROOT / "docs" / "results" / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"Model default, [\d-]+, sha256 (\w+)", text) == [shipped]


def test_no_other_page_names_another_model():
    shipped = hashlib.sha256((ROOT / "engine" / "model" / "default.onnx").read_bytes()).hexdigest()
    for page in PAGES:
        for found in re.findall(r"Model default,[^;]*sha256 (\w+)", page.read_text(encoding="utf-8")):
            assert shipped.startswith(found), page
