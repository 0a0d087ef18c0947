"""Our bioimage.io package through bioimageio.core. IN OUT PACKAGE [N]: whole planes, or blocks of 512 + 16 N px."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from bioimageio.core import create_prediction_pipeline, load_model_description
from bioimageio.core.digest_spec import create_sample_for_model

source, out, package = map(Path, sys.argv[1:4])
block = int(sys.argv[4]) if len(sys.argv) > 4 else None
model: Any = load_model_description(package, perform_io_checks=False)
with create_prediction_pipeline(model) as pipeline:
    for path in sorted(source.iterdir()):
        image = tifffile.imread(path).astype(np.float32)
        height, width = image.shape
        image = np.pad(image, ((0, -height % 16), (0, -width % 16)), mode="reflect")  # it takes multiples only
        inputs: Any = {"image": image[None, None]}
        sample = create_sample_for_model(model, inputs=inputs)
        if block:
            made: Any = pipeline.predict_sample_with_blocking(sample, ns=block)
        else:
            made = pipeline.predict_sample_without_blocking(sample)
        tifffile.imwrite(out / path.name, np.asarray(made.members["restored"].data)[0, 0, :height, :width])
