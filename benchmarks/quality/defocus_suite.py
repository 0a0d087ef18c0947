"""Build the frozen suite from sharp fields, or verify one.

    D=../shared/data
    python -m benchmarks.quality.defocus_suite $D/bbbc006/infocus_w[12] $D/dsb2018/520x696 -o runs/suite
    python -m benchmarks.quality.defocus_suite --verify runs/suite

The checksum is printed: two suites with the same one have the same pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from defocus.engine.errors import DefocusError
from defocus.training.data.fields import load_field
from defocus.training.evaluation import suite
from defocus.training.evaluation.heldout import HELD_OUT, OPTICS, TWINS, held_out_files


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders of sharp fields")
    parser.add_argument("--only", nargs="+", default=HELD_OUT, metavar="PATTERN", help="names of the fields to take")
    parser.add_argument("--crop", nargs=2, type=int, metavar=("Y", "X"), help="keep the middle of each field only")
    parser.add_argument(
        "--twin", type=float, choices=list(TWINS), metavar="WAVES", help="through spherical aberration: -0.2 or 0.2"
    )
    parser.add_argument("--title", default="held-out fields", help="what tables call the suite")
    parser.add_argument("-o", "--output", type=Path, help="folder to write")
    parser.add_argument("--verify", type=Path, metavar="SUITE", help="check every pixel of a suite instead")
    options = parser.parse_args()
    try:
        if options.verify:
            made = suite.load(options.verify)
        else:
            if not options.folders or not options.output:
                parser.error("give folders of sharp fields and -o, or --verify")
            fields = map(load_field, held_out_files(options.folders, options.only))
            optics = OPTICS if options.twin is None else TWINS[options.twin]
            title = options.title + (f", {options.twin:+g} waves" if options.twin is not None else "")
            crop = options.crop and tuple(options.crop)
            made = suite.make(title, suite.make_cases(fields, crop=crop, optics=optics))
            suite.save(made, options.output, optics)
    except DefocusError as error:
        sys.exit(f"error: {error}")
    print(f"{made.title}: {len(made.fields)} fields at {', '.join(map(str, made.distances))} um")
    print(f"checksum {made.checksum}")


if __name__ == "__main__":
    main()
