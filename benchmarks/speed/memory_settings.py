"""What memory costs: settings of ONNX Runtime's memory, and a plane of 2048 x 2048 cut in two for MNN.

    python -m benchmarks.speed.memory_settings [-o docs/results/memory_settings.md]

Each row is a process of its own, on Linux: the default model, random pixels, three runs; processor time of the last,
and what all of them added to the most that the process held (VmHWM).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.report import publish, table

SETTINGS = {
    "arena (the default), no memory pattern: as it is used": {},
    "no arena": {"arena": False},
    "memory pattern": {"pattern": True},
    "arena that grows by what is asked for": {"provider": {"arena_extend_strategy": "kSameAsRequested"}},
    "arena shrunk after each run": {"shrink": "cpu:0"},
}
ONNX_RUNTIME = """
import onnxruntime
from defocus.engine.model.lean_graph import split_concatenations
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
options.enable_cpu_mem_arena, options.enable_mem_pattern = way.get("arena", True), way.get("pattern", False)
session = onnxruntime.InferenceSession(
    split_concatenations(model_path().read_bytes()), options,
    providers=[("CPUExecutionProvider", way.get("provider", {}))],
)
run = onnxruntime.RunOptions()
if "shrink" in way:
    run.add_run_config_entry("memory.enable_memory_arena_shrinkage", way["shrink"])
batch = np.random.default_rng(0).random((1, 1, 1024, 1536), np.float32)
name = session.get_inputs()[0].name
call = lambda: session.run(None, {name: batch}, run)
"""
MNN = """
from defocus import Engine
engine = Engine.load(backend="mnn", memory=way["memory"])
batch = np.random.default_rng(0).integers(100, 4000, (2048, 2048), np.uint16)
call = lambda: engine(batch)
"""
MEASURE = """
import json, sys, time
import numpy as np
from defocus.engine.model.card import model_path
way = json.loads(sys.argv[1])
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
{open}
before = peak()
for _ in range(3):
    start = time.process_time()
    call()
print(time.process_time() - start, peak() - before, batch.size)
"""


def measured(opening: str, way: dict) -> tuple[float, float, float]:
    """Processor seconds of a run, bytes, pixels."""
    command = [sys.executable, "-c", MEASURE.replace("{open}", opening), json.dumps(way)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, taken, pixels = map(float, done.stdout.split())
    return seconds, taken, pixels


def rows(opening: str, ways: dict[str, dict]) -> list[list[str]]:
    usual, lines = None, []
    for name, way in ways.items():
        seconds, taken, pixels = measured(opening, way)
        usual = usual or seconds
        lines.append([name, f"{seconds / usual:.2f}", f"{taken / pixels:.0f}", f"{taken / 1e9:.2f}"])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    head = ("", "processor time, relative", "bytes per pixel", "GB")
    cut = {"the whole plane": {"memory": 1.5e9}, "cut in two (memory=0.6e9)": {"memory": 0.6e9}}
    publish(
        "What memory costs",
        [
            "ONNX Runtime, one thread, a tile of 1024 x 1536:", table(head, rows(ONNX_RUNTIME, SETTINGS)),
            "MNN, a plane of 2048 x 2048:", table(head, rows(MNN, cut)),
        ],
        options.output,
    )  # fmt: skip


if __name__ == "__main__":
    main()
