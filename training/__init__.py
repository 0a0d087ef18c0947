"""Training: data, networks, fitting, evaluation, and the classical methods."""

if __name__ != "defocus.training":
    raise ImportError("training is a part of defocus: pip install the checkout, and import defocus.training")
