#!/bin/sh
# The full comparison on a machine with a GPU: every method at its full size, an hour each (Richardson-Lucy and the
# other classical methods need none), then all tables and figures.
#
#     benchmarks/comparison/full_suite.sh ../shared/data runs/full 60
#
# With the whole of BBBC006 instead of the shared images:
#
#     defocus-data bbbc006 BBBC006
#     defocus-evaluate --bbbc006 BBBC006 --train --minutes 60 --weights runs/bbbc006/weights -o runs/bbbc006
set -eu
data=$1 out=$2 minutes=${3:-60}
fields="$data/bbbc006/infocus_w1 $data/bbbc006/infocus_w2 $data/dsb2018/520x696"
# shellcheck disable=SC2086
[ -f "$out/suite/suite.json" ] || python -m benchmarks.quality.defocus_suite $fields -o "$out/suite"
defocus-evaluate "$out/suite" --weights "$out/weights" --runs "$out/runs" --train --minutes "$minutes" \
    --simulate "$data/bbbc006/infocus_w2=0.45" --simulate "$data/bbbc006/infocus_w1=0.12" \
    --simulate "$data/dsb2018/520x696=0.32" --simulate "$data/cellprofiler_gfp=0.11" \
    --figure drawn -o "$out"
