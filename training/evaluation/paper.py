"""What Wang & Han report on BBBC006 (their Tables 1 to 3): PSNR in dB and SSIM at each distance, in um.

Two figures of their Table 1 are taken for misprints and marked in `SUSPECT`: the parameter count of N = 2 has lost a
digit, and the concat counts of N = 2 and 3 repeat the residual row.
"""

from __future__ import annotations

DISTANCES_UM = (34, 28, 22, 16, 10)

PSNR = {
    "input": (32.048, 32.421, 32.915, 33.732, 35.404),
    "nah": (32.810, 33.705, 35.172, 36.419, 37.763),
    "liu": (31.011, 32.872, 34.030, 35.098, 37.199),
    "na": (31.409, 31.908, 32.513, 34.804, 37.253),
    "zhao": (34.125, 35.153, 36.412, 37.995, 40.420),
    "residual-1": (34.013, 34.868, 36.182, 36.455, 38.409),
    "residual-2": (33.608, 35.122, 35.582, 37.399, 38.991),
    "residual-3": (34.641, 35.619, 36.418, 37.474, 39.831),
    "residual-4": (34.552, 35.688, 36.352, 37.993, 40.860),
    "concat-2": (34.212, 35.086, 34.361, 37.407, 38.932),
    "concat-3": (33.928, 35.402, 36.298, 37.914, 39.725),
    "concat-4": (34.782, 35.596, 36.448, 37.591, 40.583),
}

SSIM = {
    "input": (0.736, 0.757, 0.786, 0.830, 0.895),
    "nah": (0.833, 0.861, 0.893, 0.925, 0.955),
    "liu": (0.717, 0.770, 0.844, 0.905, 0.946),
    "na": (0.728, 0.728, 0.807, 0.890, 0.940),
    "zhao": (0.826, 0.864, 0.895, 0.928, 0.962),
    "residual-4": (0.848, 0.880, 0.899, 0.929, 0.967),
    "concat-4": (0.845, 0.870, 0.898, 0.929, 0.958),
}

PARAMETERS = {
    "residual-1": 1_942_962,
    "residual-2": 1_986_116,
    "residual-3": 2_543_478,
    "residual-4": 2_569_512,
    "concat-2": 1_986_116,
    "concat-3": 2_543_478,
    "concat-4": 2_942_760,
}
SUSPECT = {
    "residual-2": "2,426,116 is meant: a digit is lost",
    "concat-2": "repeats the residual row; 2,716,132 by eq. (7)",
    "concat-3": "repeats the residual row; 2,902,902 by eq. (7)",
}

# Which of our methods stands for which row of the paper.
ROW_OF = {
    "nah": "nah",
    "admm": "liu",
    "dncnn": "liu",
    "srn": "na",
    "mrn": "na",
    "rdn": "zhao",
    "rdn-light": "zhao",
    "unet": "residual-1",
}


def row_of(method: str) -> str:
    """The paper's name of one of our methods, or the method's own."""
    return ROW_OF.get(method, method)
