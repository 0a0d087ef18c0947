"""Our bioimage.io package through bioimageio.core. IN OUT PACKAGE."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from bioimageio.core import create_prediction_pipeline, load_model_description
from bioimageio.core.digest_spec import create_sample_for_model

source, out, package = map(Path, sys.argv[1:])
model: Any = load_model_description(package, perform_io_checks=False)
with create_prediction_pipeline(model) as pipeline:
    for path in sorted(source.iterdir()):
        image = tifffile.imread(path).astype(np.float32)
        height, width = image.shape
        image = np.pad(image, ((0, -height % 16), (0, -width % 16)), mode="reflect")  # it takes multiples only
        inputs: Any = {"image": image[None, None]}
        members: Any = pipeline.predict_sample_without_blocking(create_sample_for_model(model, inputs=inputs)).members
        tifffile.imwrite(out / path.name, np.asarray(members["restored"].data)[0, 0, :height, :width])
