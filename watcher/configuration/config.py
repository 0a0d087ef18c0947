"""All settings of the daemon, each declared once: an option of `defocus-watch`, and a key of `defocus.toml`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from ...engine.cli import options
from ...engine.cli.options import DAY, Option
from ...engine.errors import InputError
from ...engine.files.companions import COMPANIONS
from . import settings_file
from .settings_file import Setting

if TYPE_CHECKING:
    from .settings import DaemonSettings, FolderSettings

_MACHINE, _COMPLETE, _FILES = "Model and machine", "When a file is complete", "Which files and planes"
_OUTPUT, _TELL = "Output", "Status, log and notifications"


@dataclass(frozen=True)
class Folder:
    """An acquisition folder: a table [[folders]] of the settings file."""

    acquisition: Annotated[str, Option("The folder that the microscope writes to.")]
    output: Annotated[str, Option("Where corrected files go; empty: ACQ_corrected beside it.")] = ""
    name: Annotated[str, Option("Name on the status page; empty: the folder's own.")] = ""
    na: Annotated[float, Option("Numerical aperture; 0: taken from the files.", 0, 2)] = 0.0
    pixel_size_um: Annotated[float, Option("Pixel size in the specimen, in um; 0: taken from the files.", 0, 1000)] = (
        0.0
    )


@dataclass(frozen=True)
class Config:
    """Every setting, with its default. Times in s unless the name says otherwise, memory in GB; see `--help`."""

    folders: tuple[Folder, ...] = ()
    model: Annotated[str, replace(options.MODEL, panel=_MACHINE)] = "default"
    backend: Annotated[str, replace(options.BACKEND, panel=_MACHINE)] = "auto"
    threads: Annotated[
        int, replace(options.THREADS, help="Processor threads; 0: all cores.", least=0, shown=None, panel=_MACHINE)
    ] = 0
    priority: Annotated[
        str,
        Option(
            "low or normal; low gives way to the acquisition and all other programs.",
            choices=("low", "normal"),
            metavar="NAME",
            panel=_MACHINE,
        ),
    ] = "low"
    memory: Annotated[float, replace(options.MEMORY, panel=_MACHINE)] = 2.0
    settle: Annotated[
        float,
        Option("Seconds without change after which a file is complete.", 0, DAY, metavar="S", panel=_COMPLETE),
    ] = 2.0
    patience: Annotated[
        float,
        Option(
            "Seconds without change after which a broken file is quarantined.", 0, DAY, metavar="S", panel=_COMPLETE
        ),
    ] = 30.0
    retries: Annotated[
        int,
        Option("Tries before a file that fails is quarantined.", 1, 10**6, metavar="N", panel=_COMPLETE),
    ] = 3
    rescan: Annotated[
        float,
        Option("Seconds between two scans of the whole folder.", 0.05, DAY, metavar="S", panel=_COMPLETE),
    ] = 5.0
    polling: Annotated[
        bool, Option("Find files by scans only; for network shares.", flags=("--polling",), panel=_COMPLETE)
    ] = False
    include: Annotated[tuple[str, ...], replace(options.INCLUDE, panel=_FILES)] = ()
    exclude: Annotated[tuple[str, ...], replace(options.EXCLUDE, panel=_FILES)] = ()
    max_age: Annotated[
        float,
        Option("Ignore files that are older than so many seconds; 0: any age.", 0, 1e10, metavar="S", panel=_FILES),
    ] = 0.0
    order: Annotated[
        str,
        Option(
            "Which of the waiting files comes next: oldest or newest.",
            choices=("oldest", "newest"),
            metavar="NAME",
            panel=_FILES,
        ),
    ] = "oldest"
    channels: Annotated[str, replace(options.CHANNELS, panel=_FILES)] = ""
    partner_wait: Annotated[
        float,
        Option(
            "Seconds after which a channel file without its partner is quarantined.",
            0,
            100 * DAY,
            metavar="S",
            panel=_FILES,
        ),
    ] = 60.0
    companions: Annotated[tuple[str, ...], replace(options.COMPANIONS, panel=_FILES)] = COMPANIONS
    all_planes: Annotated[bool, replace(options.ALL_PLANES, panel=_FILES)] = False
    only_defocused: Annotated[bool, replace(options.ONLY_DEFOCUSED, panel=_FILES)] = False
    keep_doubtful: Annotated[str, replace(options.KEEP_DOUBTFUL, panel=_FILES)] = "corrected"
    min_free_mb: Annotated[
        float,
        Option("Pause while the output's disk has less free space, in MB.", 0, 1e9, metavar="MB", panel=_OUTPUT),
    ] = 200.0
    keep_days: Annotated[
        float,
        Option(
            "Days after which the journal forgets files that are gone; 0: never.",
            0,
            36500,
            metavar="DAYS",
            panel=_OUTPUT,
        ),
    ] = 0.0
    verbose: Annotated[
        bool, Option("Name the backends that were not used, and why.", flags=("--verbose",), panel=_TELL)
    ] = False
    log_json: Annotated[bool, Option("Log one JSON object per line.", flags=("--log-json",), panel=_TELL)] = False
    status: Annotated[
        str,
        Option("Serve a status page; on this machine only by default.", metavar="[HOST:]PORT", panel=_TELL, shown=""),
    ] = ""
    status_token: Annotated[
        str,
        Option(
            "Token that visitors from other machines need.",
            metavar="TOKEN",
            envvar="DEFOCUS_STATUS_TOKEN",
            panel=_TELL,
            shown="",
        ),
    ] = ""
    notify_command: Annotated[
        str,
        Option(
            "Command to run when focus drifts or files fail; it gets JSON on its stdin.",
            metavar="COMMAND",
            panel=_TELL,
            shown="",
        ),
    ] = ""
    notify_url: Annotated[
        str,
        Option(
            "URL that gets the same message: JSON by POST, or any URL of apprise.", metavar="URL", panel=_TELL, shown=""
        ),
    ] = ""
    drift_px: Annotated[
        float,
        Option("Blur in px above which focus has drifted; 0: never.", 0, 1e4, metavar="PX", panel=_TELL),
    ] = 0.0
    typed: frozenset[str] = field(default=frozenset(), compare=False, repr=False)  # what the command line has set
    file: Path | None = field(default=None, compare=False, repr=False)

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a TOML file, in UTF-8 or, as PowerShell's `>` writes it, in UTF-16.

        Raises
        ------
        InputError
            Missing, no TOML, an unknown key (the nearest known one is named), a value of another kind or out of range.
        """
        values = settings_file.read(path, SETTINGS, FOLDER)
        if "folders" in values:
            values["folders"] = tuple(Folder(**table) for table in values["folders"])
        return cls(**values, file=path).checked()

    def checked(self) -> Config:
        """The same, if its values make sense; raises InputError, which names the file or the option."""
        for name, setting in SETTINGS.items():
            value = getattr(self, name)
            if remedy := setting.option.refusal(value):
                shown = f'"{value}"' if isinstance(value, str) else value
                raise self.refused(name, f"is {shown}", remedy)
        if self.channels:
            from ...engine.pipeline.channel_pattern import Pattern

            try:
                Pattern.parse(self.channels)
            except InputError as error:
                cause = f'is "{self.channels}": {error.cause}'
                raise self.refused("channels", cause, error.remedy) from error
        return self

    def refused(self, name: str, cause: str, remedy: str) -> InputError:
        """An error that speaks of the option if the command line has set it, else of the settings file's key."""
        if name in self.typed:
            return InputError(f"--{name.replace('_', '-')}", cause, remedy)
        return InputError(self.file or "settings", f"{name} {cause}", remedy)

    def given(self, **changes: Any) -> Config:
        """The same with the `changes` that are not None."""
        given = {name: value for name, value in changes.items() if value is not None}
        return replace(self, **given, typed=self.typed | set(given))

    def daemon_settings(self, once: bool = False) -> DaemonSettings:
        """What `watch` takes. Raises InputError if there is no folder."""
        from .settings import DaemonSettings

        return DaemonSettings(tuple(self.settings()), once, round(self.memory * 1e9))

    def settings(self) -> list[FolderSettings]:
        """The settings of each folder. Raises InputError if there is none."""
        if not self.folders:
            raise InputError("ACQ", "no folder to watch", "give ACQ, or a settings file that names folders (--config)")
        # Not before they are needed: --help is quick without numpy and tifffile.
        from ...engine.pipeline.channel_pattern import Pattern
        from ...engine.quality.report import Doubtful
        from ..discovery.scanner import ScanTiming
        from ..queue import Order
        from .settings import FolderSettings, default_out

        timing = ScanTiming(self.settle, self.rescan, self.patience, self.polling)
        return [
            FolderSettings(
                acquisition=Path(folder.acquisition),
                out=Path(folder.output) if folder.output else default_out(Path(folder.acquisition)),
                timing=timing,
                retries=self.retries,
                keep_sharp=not self.all_planes,
                order=Order(self.order),
                include=self.include,
                exclude=self.exclude,
                max_age=self.max_age,
                min_free_mb=self.min_free_mb,
                keep_days=self.keep_days,
                channels=Pattern.parse(self.channels) if self.channels else None,
                partner_wait=self.partner_wait,
                companions=self.companions,
                keep_doubtful=self.keep_doubtful == Doubtful.ORIGINAL,
            )
            for folder in self.folders
        ]

    def to_toml(self) -> str:
        """The settings as a file that `load` reads; of a token it says only that there is one."""
        values = {name: getattr(self, name) for name in SETTINGS}
        return settings_file.text_of(values, [asdict(folder) for folder in self.folders], SETTINGS, FOLDER)


def _declared(kind: type[Config | Folder]) -> dict[str, Setting]:
    hints = get_type_hints(kind, include_extras=True)
    declared = {item.name: (item.default, get_args(hints[item.name])) for item in fields(kind)}
    return {
        name: Setting(parts[0], default, parts[1])
        for name, (default, parts) in declared.items()
        if len(parts) == 2 and isinstance(parts[1], Option)
    }


SETTINGS, FOLDER = _declared(Config), _declared(Folder)
