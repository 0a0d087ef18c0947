"""The defocus of a widefield fluorescence microscope from physics: scalar pupil, PSF, OTF, camera noise.

Numpy only, so that the demo and the benchmarks draw specimens where torch is not installed.

Source: J. W. Goodman, Introduction to Fourier Optics (pupil and OTF); M. Gibson and F. Lanni, JOSA A 8, 1601
(1991) for the same integral in its radial form. `psfmodels` computes that form, about twice as fast, and the tests
compare with it; the pupil here is a 2-D array, so that tilt, coma or a vignetted rim can be added to it, and the demo
needs no compiled package for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...engine.image.fourier import fast_length

PUPIL_RADIUS_SAMPLES = 24  # the pupil's radius is sampled at least this finely
OVERSAMPLED_NYQUIST = 4.0  # samples per wavelength / NA that the intensity, of bandwidth 2 NA / wavelength, needs


@dataclass(frozen=True)
class Aberrations:
    """What a real pupil adds to defocus: Zernike terms in waves, root mean square, of Noll's normalisation.

    Source: R. J. Noll, JOSA 66, 207 (1976), Table I; the mismatch as in Gibson & Lanni (1991), less the tilt of the
    focus that the stage takes back.

    Attributes
    ----------
    spherical, coma, astigmatism : float
        Z11, Z8 and Z6.
    angle : float
        Direction of coma and astigmatism, radians.
    depth_um, specimen_index : float
        How deep the focus lies in a medium of another refractive index, um.
    """

    spherical: float = 0.0
    coma: float = 0.0
    astigmatism: float = 0.0
    angle: float = 0.0
    depth_um: float = 0.0
    specimen_index: float = 1.33

    @property
    def rms_waves(self) -> float:
        """Of the Zernike terms together."""
        return math.sqrt(self.spherical**2 + self.coma**2 + self.astigmatism**2)

    def phase(self, optics: Optics, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Phase in radians on direction sines `y` and `x`, float (Y, X); outside the pupil it means nothing."""
        squared = np.minimum((y**2 + x**2) / optics.na**2, 1.2)
        radius = np.sqrt(squared)
        turn = np.arctan2(y, x) - self.angle
        waves = (
            self.spherical * math.sqrt(5) * (6 * squared**2 - 6 * squared + 1)
            + self.coma * math.sqrt(8) * (3 * squared - 2) * radius * np.cos(turn)
            + self.astigmatism * math.sqrt(6) * squared * np.cos(2 * turn)
        )
        if self.depth_um:
            sines = squared * optics.na**2
            path = self.depth_um * np.sqrt(np.maximum(self.specimen_index**2 - sines, 0))
            focus = np.sqrt(np.maximum(optics.refractive_index**2 - sines, 0))
            inside = squared <= 1
            slope, level = np.polyfit(focus[inside], path[inside], 1)
            waves = waves + (path - slope * focus - level) / optics.wavelength_um
        return 2 * math.pi * waves


NO_ABERRATIONS = Aberrations()


@dataclass(frozen=True)
class Optics:
    """A widefield microscope.

    Attributes
    ----------
    na : float
        Numerical aperture of the objective.
    wavelength_um : float
        Emission wavelength in vacuum, um.
    pixel_um : float
        Camera pixel in the specimen plane, um.
    refractive_index : float
        Of the medium in which the focus drifts: 1 for a dry objective.
    aberrations : Aberrations
        None by default.
    """

    na: float = 0.5
    wavelength_um: float = 0.52
    pixel_um: float = 0.645
    refractive_index: float = 1.0
    aberrations: Aberrations = NO_ABERRATIONS

    def __post_init__(self) -> None:
        if not 0 < self.na < self.refractive_index:
            raise ValueError(f"NA must lie between 0 and the refractive index {self.refractive_index}, not {self.na}")
        if min(self.wavelength_um, self.pixel_um) <= 0:
            raise ValueError("wavelength and pixel size must be positive")

    @property
    def airy_radius_um(self) -> float:
        """Radius of the first dark ring in focus, 0.61 wavelength / NA."""
        return 0.61 * self.wavelength_um / self.na

    def disk_radius_um(self, z_um: float) -> float:
        """Radius of the geometric defocus disk, z tan(asin(NA / n))."""
        return abs(z_um) * math.tan(math.asin(self.na / self.refractive_index))


@dataclass(frozen=True)
class Camera:
    """A camera: counts = offset + gain * Poisson(photons) + read noise, clipped to `bits`.

    Attributes
    ----------
    photons_per_count : float
        Photo-electrons that make one count.
    offset : float
        Counts without light.
    read_noise : float
        Standard deviation in counts.
    bits : int
        Full scale is 2**bits - 1 counts.
    """

    photons_per_count: float = 1.0
    offset: float = 100.0
    read_noise: float = 3.0
    bits: int = 16

    def expose(self, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Record a noiseless image, (Y, X) in counts above the offset, as uint16 (Y, X)."""
        photons = np.clip(counts, 0, None) * self.photons_per_count
        signal = rng.poisson(photons) / self.photons_per_count
        noisy = self.offset + signal + rng.normal(0.0, self.read_noise, counts.shape)
        return np.clip(np.rint(noisy), 0, 2**self.bits - 1).astype(np.uint16)


def psf(
    optics: Optics,
    z_um: float,
    half: int | None = None,
    oversample: int | None = None,
    dtype: type[np.floating] = np.float32,
) -> np.ndarray:
    """Intensity PSF of a point `z_um` out of focus, integrated over the camera's pixels and normalised to 1.

    Parameters
    ----------
    z_um : float
        Distance from focus in um; the sign matters only with aberrations.
    half : int, optional
        The array has 2 * half + 1 pixels a side; by default wide enough for the geometric disk and five Airy radii.
    oversample : int, optional
        Odd number of samples a pixel; by default what the bandwidth 2 NA / wavelength asks for.
    dtype : np.float32 or np.float64
        In which to compute: single precision is enough for training, double gives the same counts on every machine.

    Returns
    -------
    Array (2 half + 1, 2 half + 1) of `dtype`, sum 1, centre on its middle pixel.
    """
    half = half_width(optics, z_um) if half is None else half
    s = sampling(optics) if oversample is None else oversample
    if s < 1 or s % 2 == 0:
        raise ValueError(f"oversample must be odd, so that a sample lies on the pixel's centre, not {s}")
    fine = psf_oversampled(optics, z_um, half, s, dtype)
    side = 2 * half + 1
    binned = fine.reshape(side, s, side, s).sum(axis=(1, 3))
    return (binned / binned.sum()).astype(dtype)


def psf_oversampled(
    optics: Optics, z_um: float, half: int, oversample: int, dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """The intensity PSF before binning, `dtype` ((2 half + 1) oversample,) * 2 at pixel_um / oversample a sample.

    |FFT of the pupil|^2, the pupil being 1 within NA with the defocus phase 2 pi z sqrt(n^2 - sin^2) / wavelength.
    Not normalised beyond the FFT's own scale: Parseval keeps its total, over the whole grid, the same for every z.
    """
    step = optics.pixel_um / oversample
    side = (2 * half + 1) * oversample
    # The grid holds the PSF with a margin against wrap-around, and samples the pupil finely enough.
    needed = max(1.25 * side, 2 * PUPIL_RADIUS_SAMPLES * optics.wavelength_um / (2 * optics.na * step))
    grid = fast_length(math.ceil(needed))
    direction = (np.fft.fftfreq(grid, step) * optics.wavelength_um).astype(dtype)  # direction sines
    squared = direction[:, None] ** 2 + direction[None, :] ** 2
    # The rim is weighted by how much of each sample lies inside: a staircase would ring in the PSF.
    rim = optics.wavelength_um / (grid * step)
    amplitude = np.clip((optics.na - np.sqrt(squared)) / rim + 0.5, 0.0, 1.0)
    axial = np.sqrt(np.clip(optics.refractive_index**2 - squared, 0.0, None))
    phase = (2 * math.pi * z_um / optics.wavelength_um) * (axial - optics.refractive_index)
    if optics.aberrations != NO_ABERRATIONS:
        phase = phase + optics.aberrations.phase(optics, direction[:, None], direction[None, :])
    field = np.fft.ifft2(amplitude * np.exp(1j * phase).astype(np.result_type(dtype, np.complex64)))
    intensity = np.fft.fftshift(field.real**2 + field.imag**2)
    low = grid // 2 - side // 2
    return intensity[low : low + side, low : low + side].astype(dtype)


def half_width(optics: Optics, z_um: float) -> int:
    """Pixels from the centre within which the PSF practically lies: geometric disk and five Airy radii.

    Aberrations widen it: by some eight Airy radii a wave, the slope of their phase at the rim.
    """
    rings = 5 + 8 * optics.aberrations.rms_waves + 0.05 * optics.aberrations.depth_um
    return math.ceil((optics.disk_radius_um(z_um) + rings * optics.airy_radius_um) / optics.pixel_um)


def sampling(optics: Optics) -> int:
    """Smallest odd number of samples a pixel that resolves the intensity's bandwidth 2 NA / wavelength."""
    least = math.ceil(OVERSAMPLED_NYQUIST * optics.na * optics.pixel_um / optics.wavelength_um)
    return max(least + (least + 1) % 2, 3)


def transfer(
    optics: Optics, z_um: float, shape: tuple[int, int], relative: bool, dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """Optical transfer function on the grid of `numpy.fft.rfft2` for an image of `shape` (Y, X), complex of `dtype`.

    With `relative`, the OTF at `z_um` over the OTF in focus: what turns a plane recorded in focus, which
    already passed the pupil once, into the plane recorded out of focus. For an aberration-free pupil its
    magnitude never exceeds 1 (Hopkins 1955), and at z = 0 it is 1: a sharp plane stays as it is.
    """
    otf = _transfer(psf(optics, z_um, dtype=dtype), shape)
    if not relative:
        return otf
    focus = _transfer(psf(optics, 0.0, dtype=dtype), shape)
    magnitude = np.abs(focus)
    ratio = np.where(magnitude > 1e-3, otf / np.maximum(magnitude, 1e-3) ** 2 * focus.conj(), 0)
    return (ratio / np.maximum(np.abs(ratio), 1.0)).astype(otf.dtype)


def defocus(
    sharp: np.ndarray, optics: Optics, z_um: float, relative: bool = True, dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """Image of the plane `sharp`, float (Y, X), when it lies `z_um` out of focus; of `dtype`, noiseless.

    `relative` says that `sharp` was recorded in focus by the same optics (see `transfer`); False takes it for
    the specimen itself. The surroundings are continued by reflection over the width of the PSF.
    """
    pad = half_width(optics, z_um)
    # Reflection cannot continue an image further than its own width; wrapping the rest is still smooth.
    pad_y, pad_x = (min(pad, side - 1) for side in sharp.shape)
    padded = np.pad(np.asarray(sharp, dtype), ((pad_y, pad_y), (pad_x, pad_x)), mode="reflect")
    side = 2 * pad + 1
    shape = (fast_length(max(padded.shape[0], side)), fast_length(max(padded.shape[1], side)))
    padded = np.pad(padded, ((0, shape[0] - padded.shape[0]), (0, shape[1] - padded.shape[1])), mode="edge")
    blurred = np.fft.irfft2(np.fft.rfft2(padded) * transfer(optics, z_um, shape, relative, dtype), shape)
    return blurred[pad_y : pad_y + sharp.shape[0], pad_x : pad_x + sharp.shape[1]].astype(dtype)


def _transfer(kernel: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    # Wraps a kernel wider than the image around it, as the circular convolution itself would.
    half = kernel.shape[0] // 2
    y = np.arange(-half, half + 1) % shape[0]
    x = np.arange(-half, half + 1) % shape[1]
    placed = np.zeros(shape, kernel.dtype)
    np.add.at(placed, (y[:, None], x[None, :]), kernel)
    return np.fft.rfft2(placed).astype(np.result_type(kernel.dtype, np.complex64))
