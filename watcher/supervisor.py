"""A daemon's life: page, model, watching; again when the settings change; the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from ..engine.cli import _app
from ..engine.errors import DefocusError, first_line
from ..engine.model.card import model_path, read_card
from .alerts.health import Health
from .clock import SYSTEM_CLOCK, Clock
from .configuration.config import Config
from .configuration.settings import check_folders
from .daemon import watch as watch_folders
from .display import open_display
from .events import WatchEvent
from .service.systemd import notify_systemd, watchdog
from .tally import Tally, duration

RETRY_PAUSE = 5.0  # s between two tries to start with settings that had started before
if TYPE_CHECKING:
    from ..engine.inference.engine import Engine


def run(
    config: Config,
    read_settings: Callable[[], Config],
    stop: threading.Event,
    reload: threading.Event,
    end: threading.Event,
    once: bool = False,
    opened: Callable[[str], None] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> int:
    """Watch with the settings of `config` until `stop`; when `reload` is set as well, with those of `read_settings()`.

    `end`, which is set before `stop`, ends it whatever else was asked for. New settings that cannot start give way to
    those from before; where those cannot start again (a share is away just then), they are tried until they can.
    `opened` is told once of the status page's address.

    Returns the exit code. Raises what `watch` raises.
    """
    health = Health(clock.monotonic)
    ended = threading.Event()
    watchdog(health.stuck, ended)
    good: Config | None = None  # the last settings that have started
    trouble = ""

    def say(text: str) -> None:
        open_display(config.log_json).say(text)

    try:
        while True:
            started, code = threading.Event(), 0
            try:
                code = _watch(config, stop, once, health, started, clock, opened)
                opened = None
            except DefocusError as error:
                if started.is_set() or good is None:
                    raise
                if config is not good:
                    say(f"{error}; keeping the previous settings")
                    config = good
                    continue
                if trouble != str(error):
                    trouble = str(error)
                    health.set_problem("start", trouble)
                    say(f"{error}; trying again")
                if not clock.wait(stop, RETRY_PAUSE):
                    continue
            if end.is_set() or not reload.is_set():
                return code
            if started.is_set():
                good = config
            trouble = ""
            health.reset()
            reload.clear()
            stop.clear()
            if end.is_set():
                return code
            notify_systemd("RELOADING=1")
            try:
                config = _checked(read_settings())  # only now: settings that cannot work would end the daemon
            except DefocusError as error:
                say(f"{error}; keeping the previous settings")
            except Exception as error:  # whatever stands in the file, the images go on
                say(f"settings: cannot be used ({first_line(error)}); keeping the previous ones")
    finally:
        notify_systemd("STOPPING=1")
        ended.set()


def _checked(config: Config) -> Config:
    """The same settings, if watching could start with them; raises DefocusError."""
    check_folders(config.settings(), read_card(model_path(config.model)))
    return config


def _engine(config: Config) -> Engine:
    from ..engine.inference.engine import Engine

    threads, memory = config.threads or None, round(config.memory * 1e9)
    return Engine.load(config.model, backend=config.backend, threads=threads, memory=memory)


def _watch(
    config: Config,
    stop: threading.Event,
    once: bool,
    health: Health,
    started: threading.Event,
    clock: Clock,
    opened: Callable[[str], None] | None = None,
) -> int:
    """One stretch of watching with the same settings; `started` is set once nothing can keep it from watching."""
    from ..engine.tiff.preview import MEMORY as PREVIEWS
    from .alerts.notify import Notifier
    from .status.page import StatusPage

    settings = config.daemon_settings(once)
    if config.status:  # the page's previews count toward --memory
        settings = replace(settings, memory=max(settings.memory - PREVIEWS, settings.memory // 2))
    check_folders(settings.folders)
    display = open_display(config.log_json)
    tally, begin = Tally(), clock.monotonic()
    with ExitStack() as stack:
        page = StatusPage.of(config, settings.folders, health)
        if page is not None:  # before the model is loaded: whoever looks sees that it starts
            stack.enter_context(page)
            display.say(f"status page at {page.address}")
            if opened is not None:
                opened(page.address)
        notifier = stack.enter_context(Notifier.of(config, display.say))
        with _engine(config) as engine:
            if engine.rejected_backends and (config.verbose or config.backend != "auto"):
                reasons = "; ".join(f"{name}: {reason}" for name, reason in engine.rejected_backends.items())
                display.say(f"backends not used: {reasons}")

            def begun() -> None:
                if page is not None:
                    page.state.begin(engine)
                for folder in settings.folders:
                    folders = f"watching {folder.acquisition} -> {folder.out}"
                    display.say(f"{folders}, model {engine.card.name}, {engine.description}")
                notify_systemd("READY=1")
                started.set()
                health.set_problem("start", None)

            def report(event: WatchEvent) -> None:
                tally.add(event, clock.monotonic())
                display.show(event)
                notifier.see(event)
                if page is not None:
                    page.state.see(event)

            with display.running():
                quarantined = watch_folders(settings, engine, stop, report, health, begun, clock)
    display.end()
    if quarantined:
        display.say(f"quarantined ({len(quarantined)}):")
        for entry in quarantined:
            display.say(f"  {entry.relative}: {entry.reason}")
    display.say(f"{tally}, {duration(clock.monotonic() - begin)}")
    return _app.FAILED if once and quarantined else 0
