#!/bin/sh
# A process a file, two at a time: each.sh DEFOCUS_RUN IN OUT [OPTIONS]
program=$1 in=$2 out=$3
shift 3
find "$in" -type f -print0 | xargs -0 -P2 -I{} "$program" {} -o "$out" --backend cpu --threads 1 "$@"
