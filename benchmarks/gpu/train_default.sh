#!/bin/bash
# Train the default model on a GPU machine that is lent for minutes, in calls of under ten minutes.
#   bash benchmarks/gpu/train_default.sh pack ../shared/data      here: the fields into runs/gpu-train/data.tar.xz
#   bash benchmarks/gpu/train_default.sh train OUT                there, again and again, runs/gpu-train brought along
# A call goes on where the last one stopped: from the run's checkpoint while the machine is the same, else from the
# weights that came back (put OUT/weights.pt into runs/gpu-train). OUT gets weights.pt (5 MB), metrics.csv and train.log.
# What travels stays under 64 MiB. Crops are simulated by WORKERS processes of the machine's processor, from a bank of
# transfer functions. MINUTES, STEPS, WORKERS, RECIPE and PRECISION may be set; PYTHON needs torch with CUDA and the
# packages of defocus[train].
set -euo pipefail
home=runs/gpu-train
fields=(bbbc006/infocus_w2=0.45 bbbc006/infocus_w1=0.12 dsb2018/520x696=0.32 cellprofiler_gfp=0.11)
held=("*_d16_*" "*_k14_*" "*_n22_*" "*_p19_*" "*_a05_*" "[0f]*.png")
mkdir -p "$home"

if [ "${1:-}" = pack ]; then
    tar -C "${2:?the folder of the fields}" -cf - "${fields[@]%=*}" | xz -T0 -9 > "$home/data.tar.xz"
    size=$(stat -c %s "$home/data.tar.xz")
    echo "$home/data.tar.xz: $size bytes"
    [ "$size" -lt 45000000 ] || { echo "too large to travel with the rest in 64 MiB: leave fields out" >&2; exit 1; }
    exit 0
fi
[ "${1:-}" = train ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
out=${2:?where results go}
mkdir -p "$out"
[ -d "$home/data" ] || { mkdir -p "$home/data.part"; tar -C "$home/data.part" -xJf "$home/data.tar.xz"; mv "$home/data.part" "$home/data"; }

python=${PYTHON:-$(command -v python3.12 || command -v python3)}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if [ -f "$home/run/last.ckpt" ]; then begin=(--resume)
elif [ -f "$home/weights.pt" ]; then begin=(--from "$home/weights.pt")
else begin=(--from "${WEIGHTS:-docs/models/default/weights.pt}"); fi
sources=(); for one in "${fields[@]}"; do sources+=(--simulate "$home/data/$one"); done
hold=(); for one in "${held[@]}"; do hold+=(--hold-out "$one"); done

# An interrupted run keeps the checkpoint of its last whole epoch: 124 is timeout's own code, 130 that of Ctrl-C.
code=0
timeout -k 20 -s INT "$(awk "BEGIN {print 60 * ${MINUTES:-8.5}}")" "$python" -m defocus.training.cli.train \
    "${sources[@]}" "${hold[@]}" -o "$home/run" "${begin[@]}" --recipe "${RECIPE:-benchmarks/gpu/train_default.toml}" \
    --steps "${STEPS:-60000}" --workers "${WORKERS:-14}" --precision "${PRECISION:-auto}" --no-progress \
    > "$out/train.log" 2>&1 || code=$?
tail -n 3 "$out/train.log"
case $code in 0 | 124 | 130) ;; *) exit "$code" ;; esac
[ -f "$home/run/last.ckpt" ] || { echo "no epoch was completed: set MINUTES higher" >&2; exit 1; }
cp "$home/run/metrics.csv" "$out/"
"$python" - "$home/run/last.ckpt" "$out/weights.pt" <<'P'
import sys
from pathlib import Path
from defocus.training.fit.checkpoint import load_checkpoint, save_weights
save_weights(*load_checkpoint(Path(sys.argv[1])), Path(sys.argv[2]))
P
echo "weights: $out/weights.pt"
