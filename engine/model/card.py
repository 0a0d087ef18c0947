"""The card: what a model file says of itself, kept inside the ONNX file under the metadata key "defocus"."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from dataclasses import asdict, dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from ..errors import ErrorCode, ModelError
from .onnx_metadata import has_external_data, metadata

FORMAT = 1
KEY = "defocus"
DEFAULT = "default"

# What a card may ask for at most: beyond it a tile would not fit into any memory.
_MOST_CHANNELS, _MOST_MULTIPLE, _MOST_HALO = 64, 1024, 2048  # the last two in px

_LONGEST_NAME = 200  # characters

_EXPORT = "export it again with defocus-export, or use --model default"


@dataclass(frozen=True)
class Percentiles:
    """The intensity rule: a plane's `low` and `high` percentiles go to 0 and 1."""

    low: float = 1.0
    high: float = 99.9
    rule: str = "percentile"


Range = tuple[float, float]


@dataclass(frozen=True)
class Card:
    """What a model file says of itself.

    Attributes
    ----------
    name : str
        What users call the model.
    channels : int
        Channels in and out. A model of one channel serves any number of them, plane by plane.
    multiple : int
        Height and width given to the network must be multiples of this many pixels.
    halo : int
        Pixels around a tile's core that the network needs so that the core equals the whole image's result.
    intensity : Percentiles
        How a plane is taken to unit range.
    pixel_size_um, na_range, wavelength_um_range, defocus_um_range : (low, high) or None
        The optics it was trained for: pixel size in the specimen, numerical aperture, emission wavelength and
        distance from focus, lengths in um. None: not known.
    training_data, date, licence : str
        Where it comes from; the date is ISO 8601.
    precision : "fp32" or "fp16"
        What the graph's convolutions are in (FP16: all but those that were kept out of it).
    fp32_sha256 : str
        Of an FP16 file: hash of the FP32 file that it was made from and proven against.
    sha256 : str
        Hash of the whole file in hexadecimal; computed when the file is read, never stored in it.
    """

    name: str
    channels: int
    multiple: int
    halo: int
    intensity: Percentiles = field(default_factory=Percentiles)
    pixel_size_um: Range | None = None
    na_range: Range | None = None
    wavelength_um_range: Range | None = None
    defocus_um_range: Range | None = None
    training_data: str = ""
    date: str = ""
    licence: str = ""
    precision: str = "fp32"
    fp32_sha256: str = ""
    sha256: str = ""

    def to_json(self) -> str:
        """The card as the JSON object that goes into the model file under `KEY`."""
        fields = asdict(self)
        del fields["sha256"]
        return json.dumps({"format": FORMAT, **fields})

    @classmethod
    def from_json(cls, text: str | bytes, thing: object, sha256: str = "") -> Card:
        """Read and check a card; `thing` names the file in errors.

        Raises
        ------
        ModelError
            Not JSON, of a newer format, or a field is missing or makes no sense.
        """
        try:
            fields = json.loads(text)
            if not isinstance(fields, dict):
                raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            cause = "nested too deeply" if isinstance(error, RecursionError) else error
            raise ModelError(thing, f"its card cannot be read ({cause})", _EXPORT) from error
        version = fields.get("format")
        if isinstance(version, int) and version > FORMAT:
            cause = f"its card has format {version}, this defocus reads up to {FORMAT}"
            raise ModelError(thing, cause, "install a newer defocus")
        try:
            if version != FORMAT:
                raise ValueError(f"format is {version!r}")
            return cls(
                name=_text(fields, "name"),
                channels=_count(fields, "channels", 1, _MOST_CHANNELS),
                multiple=_count(fields, "multiple", 1, _MOST_MULTIPLE),
                halo=_count(fields, "halo", 0, _MOST_HALO),
                intensity=_percentiles(fields["intensity"]),
                pixel_size_um=_range(fields, "pixel_size_um"),
                na_range=_range(fields, "na_range"),
                wavelength_um_range=_range(fields, "wavelength_um_range"),
                defocus_um_range=_range(fields, "defocus_um_range"),
                training_data=str(fields.get("training_data", "")),
                date=str(fields.get("date", "")),
                licence=str(fields.get("licence", "")),
                precision=str(fields.get("precision", "fp32")),
                fp32_sha256=str(fields.get("fp32_sha256", "")),
                sha256=sha256,
            )
        except KeyError as error:
            raise ModelError(thing, f"its card lacks {error.args[0]!r}", _EXPORT) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(thing, f"its card makes no sense ({error})", _EXPORT) from error


def model_path(model: str | os.PathLike[str] = DEFAULT) -> Path:
    """The file of a model: "default" is the one inside the package, anything else is a path.

    Raises
    ------
    ModelError
        The embedded model is asked for and not there.
    """
    if str(model) != DEFAULT:
        return Path(model)
    path = Path(__file__).with_name("default.onnx")
    if not path.is_file():
        raise ModelError(
            "default", "this installation holds no default model", "name one with --model PATH, or reinstall defocus"
        )
    return path


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read the card of an ONNX file and hash the file.

    Raises
    ------
    ModelError
        No such file, not a regular one, not ONNX, weights outside of it (they would not be in its hash), no card in it,
        or a card that cannot be used.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe would wait for ever
            raise ModelError(path, "not a regular file", "give a model file, or use --model default")
        with open(path, "rb") as file:
            text, has_graph = metadata(file, KEY)
            if has_graph and has_external_data(file):
                cause = "its weights lie in another file, which its hash says nothing about"
                raise ModelError(path, cause, "save it as a single file: defocus-export does")
            sha256 = _sha256(file)
    except FileNotFoundError as error:
        raise ModelError(
            path, "no such model file", "check the path, or use --model default", ErrorCode.MISSING
        ) from error
    except OSError as error:
        raise ModelError(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error
    except ValueError as error:
        raise ModelError(path, "not an ONNX file", "give a model made by defocus-export, or --model default") from error
    if not has_graph:
        raise ModelError(path, "not an ONNX file", "give a model made by defocus-export, or --model default")
    if text is None:
        raise ModelError(path, "an ONNX file, but without a defocus card in its metadata", _EXPORT)
    return Card.from_json(text, path, sha256)


def half_precision(path: Path, card: Card) -> tuple[Path, Card] | None:
    """The file `NAME_fp16.onnx` beside a model file `NAME.onnx`, with its card; None if there is none.

    It counts only if its card names this very file as the one that it was proven against. Raises ModelError where it
    cannot be used.
    """
    half = path.with_name(f"{path.stem}_fp16{path.suffix}")
    if not half.exists():
        return None
    half_card = read_card(half)
    return (half, half_card) if half_card.fp32_sha256 == card.sha256 else None


def is_still(path: Path, card: Card) -> bool:
    """Whether a model file is the one that `card` was read from."""
    try:
        with open(path, "rb") as file:
            return _sha256(file) == card.sha256
    except OSError:
        return False


def _sha256(file: BufferedReader) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {value!r}"[:80])
    if len(value) > _LONGEST_NAME:  # it stands in every log and on every page
        raise ValueError(f"{key} has {len(value)} characters, more than {_LONGEST_NAME}")
    return value


def _count(fields: dict[str, Any], key: str, least: int, most: int) -> int:
    value = fields[key]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        text = repr(value)
        raise ValueError(f"{key} is {text if len(text) < 30 else text[:30] + '...'}, not between {least} and {most}")
    return value


def _percentiles(value: dict[str, Any]) -> Percentiles:
    if not isinstance(value, dict) or value.get("rule") != "percentile":
        raise ValueError(f"intensity is {value!r}")
    low, high = float(value["low"]), float(value["high"])
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles {low} and {high}")
    return Percentiles(low, high)


def _range(fields: dict[str, Any], key: str) -> Range | None:
    value = fields.get(key)
    if value is None:
        return None
    low, high = (value, value) if isinstance(value, int | float) else value
    if not -math.inf < float(low) <= float(high) < math.inf:
        raise ValueError(f"{key} is {value!r}"[:80])
    return float(low), float(high)
