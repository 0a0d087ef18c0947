"""A daemon's life: page, model, watching; again when the settings change; the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from ..engine.cli import _app
from ..engine.errors import DefocusError
from ..engine.model.card import model_path, read_card
from .config import Config
from .daemon import watch as watch_folders
from .display.json_log import JsonLog
from .events import WatchEvent
from .health import Health
from .service.systemd import tell_systemd, watchdog
from .settings import check_folders

AGAIN = 5.0  # s between two tries to start with settings that had started before


def run(
    config: Config,
    settled: Callable[[], Config],
    stop: threading.Event,
    reload: threading.Event,
    end: threading.Event,
    once: bool = False,
) -> int:
    """Watch with the settings of `config` until `stop`; when `reload` is set as well, with those of `settled()`.

    `end`, which is set before `stop`, ends it whatever else was asked for. New settings that cannot start give way to
    those from before; where those cannot start again (a share is away just then), they are tried until they can.

    Returns the exit code. Raises what `watch` raises.
    """
    health = Health()
    ended = threading.Event()
    watchdog(health.stuck, ended)
    good: Config | None = None  # the last settings that have started
    told = ""
    try:
        while True:
            started, code = threading.Event(), 0
            try:
                code = _watch(config, stop, once, health, started)
            except DefocusError as error:
                if started.is_set() or good is None:
                    raise
                if config is not good:
                    _shown(config).say(f"{error}; going on with the settings from before")
                    config = good
                    continue
                if told != str(error):
                    told = str(error)
                    health.set_problem("start", told)
                    _shown(config).say(f"{error}; trying again")
                if not stop.wait(AGAIN):
                    continue
            if end.is_set() or not reload.is_set():
                return code
            if started.is_set():
                good = config
            told = ""
            health.reset()
            reload.clear()
            stop.clear()
            if end.is_set():
                return code
            tell_systemd("RELOADING=1")
            try:
                found = settled()
                card = read_card(model_path(found.model))
                check_folders(found.settings())
                for settings in found.settings():
                    if settings.channels is not None:
                        settings.channels.check(card)
                config = found  # only now: settings that cannot work would end the daemon
            except DefocusError as error:
                _shown(config).say(f"{error}; going on with the settings from before")
    finally:
        tell_systemd("STOPPING=1")
        ended.set()


def _watch(config: Config, stop: threading.Event, once: bool, health: Health, started: threading.Event) -> int:
    """One stretch of watching with the same settings; `started` is set once nothing can keep it from watching."""
    from .notify import Notifier
    from .status.page import Page
    from .status.previews import MEMORY as PREVIEWS

    watched = config.settings(once)
    if config.status:  # the page's previews count toward --memory
        watched = [replace(one, memory=max(one.memory - PREVIEWS, one.memory // 2)) for one in watched]
    check_folders(watched)
    shown = _shown(config)
    with ExitStack() as stack:
        page = Page.of(config, watched, health)
        if page is not None:  # before the model is loaded: whoever looks sees that it starts
            stack.enter_context(page)
            shown.say(f"status page at {page.address}")
        notifier = stack.enter_context(Notifier.of(config, shown.say))
        from ..engine.inference.engine import Engine

        with Engine.load(config.model, config.backend, memory=round(config.memory * 1e9)) as engine:
            if engine.rejected_backends:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in engine.rejected_backends.items())
                shown.say(f"backends not taken: {reasons}")

            def begun() -> None:
                if page is not None:
                    page.started(engine)
                for settings in watched:
                    folders = f"watching {settings.acquisition} -> {settings.out}"
                    shown.say(f"{folders}, model {engine.card.name}, {engine.description}")
                tell_systemd("READY=1")
                started.set()
                health.set_problem("start", None)

            def report(event: WatchEvent) -> None:
                shown.show(event)
                notifier.see(event)
                if page is not None:
                    page.see(event)

            with shown.running():
                quarantined = watch_folders(watched, engine, stop, report, health, begun)
    if quarantined:
        shown.say(f"quarantined ({len(quarantined)}):")
        for entry in quarantined:
            shown.say(f"  {entry.relative}: {entry.reason}")
    return _app.FAILED if once and quarantined else 0


def _shown(config: Config):  # type: ignore[no-untyped-def]
    """Where events are shown: lines for people, or JSON for machines."""
    if config.log_json:
        return JsonLog()
    from .display.console import Live

    return Live()
