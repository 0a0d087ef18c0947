#!/bin/bash
# The part of a measurement that runs on a GPU machine which reaches no package index (docs/results/gpu.md has the steps).
# It has Python 3.12 and torch with CUDA 13; the rest comes in bundles of ../shared/gpu/make_bundle.sh.
#   bash benchmarks/gpu/lent.sh unpack runs/gpu/bundle-ort.1 ...     parts of bundles, as they arrive
#   bash benchmarks/gpu/lent.sh measure engine/model/default_fp16.onnx OUT [options of gpu.py]
set -uo pipefail
what=${1:?unpack or measure}; shift
unpack=$(ls -d runs/gpu/bundle-*/unpack.sh 2>/dev/null | head -1)
parts=(); [ "$what" = unpack ] && parts=("$@")
# Sourced: it puts every bundle that is whole on PYTHONPATH. Without bundles what is installed is used.
[ -n "$unpack" ] && . "$unpack" ${parts[@]+"${parts[@]}"}
[ "$what" = unpack ] && exit 0

half=$1; out=$2; shift 2
cache=$(mktemp -d); mkdir -p "$out"
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" DEFOCUS_CACHE="$cache"
python=$(command -v python3.12 || command -v python3)
# What there is, and whether each backend gives what the processor gives: a minute at most, whatever it comes to.
timeout 120 "$python" - "$half" > "$out/doctor.txt" 2>&1 <<'P'
import sys
from defocus.engine import diagnostics as doctor
print(*doctor.lines(doctor.examine(sys.argv[1], self_test=True)), sep="\n")
P
cat "$out/doctor.txt"
"$python" -m benchmarks.gpu.gpu --fp16 "$half" --minutes 6 -o "$out/gpu.md" "$@"
