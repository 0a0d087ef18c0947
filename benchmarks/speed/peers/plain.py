"""What one writes in an afternoon: tifffile, percentiles, ONNX Runtime, tifffile. IN OUT MODEL."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tifffile

source, out, model = map(Path, sys.argv[1:])
session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
for path in sorted(source.iterdir()):
    image = tifffile.imread(path).astype(np.float32)
    low, high = np.percentile(image, (1, 99.9))
    height, width = image.shape
    unit = np.pad((image - low) / (high - low), ((0, -height % 16), (0, -width % 16)), mode="reflect")
    (result,) = session.run(None, {"image": unit[None, None].astype(np.float32)})
    counts = np.asarray(result)[0, 0, :height, :width] * (high - low) + low
    tifffile.imwrite(out / path.name, counts.clip(0, 65535).round().astype(np.uint16), compression="lzw")
