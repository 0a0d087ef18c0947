"""From a checkpoint to an ONNX file, half precision, TensorRT plans and bioimage.io packages."""

if __name__ != "defocus.export":
    raise ImportError("export is a part of defocus: pip install the checkout, and import defocus.export")
