#!/bin/sh
# A process a file, two at a time: each.sh DEFOCUS_RUN IN OUT
find "$2" -type f -print0 | xargs -0 -P2 -I{} "$1" {} -o "$3" --backend cpu --threads 1
