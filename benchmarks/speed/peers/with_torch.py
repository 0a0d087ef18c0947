"""The loop of plain.py with torch on the CPU, FP32, eager or compiled. IN OUT PROGRAM eager|compile."""

import sys
from pathlib import Path

import numpy as np
import tifffile
import torch

source, out, program = map(Path, sys.argv[1:4])
network = torch.export.load(program).module()
if sys.argv[4] == "compile":
    network = torch.compile(network)
with torch.inference_mode():
    for path in sorted(source.iterdir()):
        image = tifffile.imread(path).astype(np.float32)
        low, high = np.percentile(image, (1, 99.9))
        height, width = image.shape
        unit = np.pad((image - low) / (high - low), ((0, -height % 16), (0, -width % 16)), mode="reflect")
        result = network(torch.from_numpy(unit[None, None].astype(np.float32))).numpy()
        counts = result[0, 0, :height, :width] * (high - low) + low
        tifffile.imwrite(out / path.name, counts.clip(0, 65535).round().astype(np.uint16), compression="lzw")
