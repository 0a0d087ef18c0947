"""Options that several commands take are declared once, so that they mean the same everywhere."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from defocus.engine.cli.options import Option

from ...helpers import commands_page

# Of one name, but of another meaning in each command; --threads 0 is for the settings file, which has no "not given".
DIFFERENT = {"out", "json", "halo", "distance_um", "threads"}


def declared(option) -> Option | str:
    """The declaration of an option: what it means, not where it is shown."""
    one = getattr(getattr(option.callback, "__wrapped__", None), "__self__", None)
    return replace(one, panel=None, shown=None) if isinstance(one, Option) else option.help


def test_no_two_commands_declare_the_same_option():
    found = defaultdict(list)
    for command, module in commands_page.modules().items():
        for option in commands_page.parameters(module):
            found[option.name].append((command, declared(option)))
    shared = {name: uses for name, uses in found.items() if len(uses) > 1}
    assert {"include", "exclude", "channels", "companions", "simulate", "hold_out", "seed"} <= set(shared)
    assert set(shared) >= DIFFERENT
    for name, uses in shared.items():
        if name not in DIFFERENT:
            first = uses[0][1]
            assert isinstance(first, Option), (name, uses)
            assert all(one == first for _, one in uses), (name, uses)


def test_every_option_has_a_sentence():
    for module in commands_page.modules().values():
        for option in commands_page.parameters(module):
            assert (option.help or "").rstrip(")").endswith((".", "...")), (module, option.name, option.help)
