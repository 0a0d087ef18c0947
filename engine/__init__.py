"""The engine: from a frame file to the corrected one. Nothing is imported until it is used."""

import os

if __name__ != "defocus.engine":
    raise ImportError("engine is a part of defocus: pip install the checkout, and import defocus.engine")

# ONNX Runtime's wheels report home since 1.29 unless this is set before the first import: nothing of ours does.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
