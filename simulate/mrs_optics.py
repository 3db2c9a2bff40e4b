"""The optics of the MIRI Medium Resolution Spectrometer: detector pixel to sky position and wavelength.

For one detector and one grating setting, each pixel (x, y; zero-based) of slice s sees
    alpha = alpha_s(y, x)   along the slice [arcsec]      lambda = lambda_s(y, x)   wavelength at the telescope [um]
    beta  = beta_s          across the slices [arcsec]    (V2, V3) = a polynomial of (alpha, beta) per channel [arcsec]
which is how the CRDS types distortion, specwcs, regions and wavelengthrange describe the instrument (Wells et al. 2015,
PASP 127, 646; Patapis et al. 2024, A&A 682, A53). The same `Optics` comes from `simulate.mrs_model`, our smooth model
of the instrument, or from the real reference files (`read_optics`), and is evaluated here with astropy.modeling and
NumPy alone: the WCS that `jwst` makes of the files is checked against it, not used.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from astropy.modeling import Model

from errors import FileFormatError, InputError
from simulate.samples import Samples

NUMBER_OF_ROWS, NUMBER_OF_COLUMNS = 1024, 1032
BANDS = ("SHORT", "MEDIUM", "LONG")
CHANNELS_OF_DETECTOR = {"MIRIFUSHORT": (1, 2), "MIRIFULONG": (3, 4)}
CHANNELS = (1, 2, 3, 4)
BAND_LETTER = {"SHORT": "A", "MEDIUM": "B", "LONG": "C"}

# Wavelength limits of the twelve bands [um], JDox "MIRI Medium Resolution Spectroscopy" (Argyriou et al. 2023,
# A&A 675, A111); 4C as in the cubes of Fletcher et al. 2023.
BAND_LIMITS = {
    (1, "SHORT"): (4.90, 5.74),
    (1, "MEDIUM"): (5.66, 6.63),
    (1, "LONG"): (6.53, 7.65),
    (2, "SHORT"): (7.51, 8.77),
    (2, "MEDIUM"): (8.67, 10.13),
    (2, "LONG"): (10.01, 11.70),
    (3, "SHORT"): (11.55, 13.47),
    (3, "MEDIUM"): (13.34, 15.57),
    (3, "LONG"): (15.41, 17.98),
    (4, "SHORT"): (17.70, 20.95),
    (4, "MEDIUM"): (20.69, 24.48),
    (4, "LONG"): (24.19, 27.90),
}

GEOMETRY_TYPES = ("distortion", "specwcs", "regions", "wavelengthrange")


@dataclass(frozen=True)
class SliceModel:
    """Transforms of one slice; `alpha` and `wavelength` take (y, x), `x` and `y` take (wavelength, alpha)."""

    alpha: Model
    wavelength: Model
    beta: float
    x: Model
    y: Model


@dataclass(frozen=True)
class Optics:
    """The optics of one detector in one grating setting.

    Attributes
    ----------
    detector, band
        'MIRIFUSHORT' or 'MIRIFULONG'; 'SHORT', 'MEDIUM' or 'LONG'.
    slices
        Slice number (channel x 100 + slice) to its transforms.
    slice_width, first_beta
        Channel to the width of its slices and the beta of its first slice [arcsec].
    to_v2v3
        Channel to the transform (alpha, beta) -> (V2, V3) [arcsec], with an inverse.
    regions
        Slice number of each pixel, zero between slices, on nine planes (9, rows, columns): where the throughput exceeds
        10, 20, ... 90 %.
    wavelength_range
        Setting ('1SHORT') to the wavelengths that fall onto the detector [um].
    files
        Reference type to the file this was read from; empty for the built-in model.
    """

    detector: str
    band: str
    slices: Mapping[int, SliceModel]
    slice_width: Mapping[int, float]
    first_beta: Mapping[int, float]
    to_v2v3: Mapping[int, Model]
    regions: np.ndarray
    wavelength_range: Mapping[str, tuple[float, float]]
    files: Mapping[str, Path]

    @property
    def channels(self) -> tuple[int, ...]:
        """The two channels that share the detector."""
        return CHANNELS_OF_DETECTOR[self.detector]

    @property
    def channel_name(self) -> str:
        """CHANNEL as in the header: '12' or '34'."""
        return "".join(str(channel) for channel in self.channels)

    def pixels(self, threshold: float = 0.1) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Slice number, rows and columns of the pixels of each slice with at least this throughput."""
        plane = self.regions[round(threshold * 10) - 1]
        rows, columns = np.nonzero(plane)
        numbers = plane[rows, columns]
        for number in self.slices:
            chosen = numbers == number
            yield number, rows[chosen], columns[chosen]

    def wavelength_map(self, threshold: float = 0.1) -> np.ndarray:
        """Wavelength at the centre of each pixel [um], shape (rows, columns), NaN between the slices."""
        wavelength = np.full(self.regions.shape[1:], np.nan)
        for number, y, x in self.pixels(threshold):
            wavelength[y, x] = self.slices[number].wavelength(y.astype(float), x.astype(float))
        return wavelength


def sample_pixels(optics: Optics, across_pixel: int = 2, across_slice: int = 3) -> Samples:
    """Sample every lit pixel along the slice (`across_pixel` points) and across it (`across_slice` points).

    The PSF is wider than a slice or a pixel, so few points of a Gauss-Legendre rule integrate it to 1e-3 and better.
    """
    nodes_x, weights_x = np.polynomial.legendre.leggauss(across_pixel)
    nodes_beta, weights_beta = np.polynomial.legendre.leggauss(across_slice)
    weights = np.outer(weights_x, weights_beta).ravel() / 4
    rows, columns, v2, v3, wavelengths = [], [], [], [], []
    for number, y, x in optics.pixels():
        channel, model = number // 100, optics.slices[number]
        yy = np.broadcast_to(y.astype(float), (across_pixel, y.size))
        xx = x + nodes_x[:, np.newaxis] / 2
        alpha = model.alpha(yy, xx)[:, np.newaxis]
        beta = model.beta + optics.slice_width[channel] * nodes_beta[:, np.newaxis] / 2
        alpha, beta = np.broadcast_arrays(alpha, beta)
        shape = (weights.size, y.size)
        slice_v2, slice_v3 = optics.to_v2v3[channel](alpha, beta)
        v2.append(slice_v2.reshape(shape))
        v3.append(slice_v3.reshape(shape))
        wavelengths.append(np.repeat(model.wavelength(yy, xx), across_slice, axis=0))
        rows.append(y)
        columns.append(x)
    return Samples(
        np.concatenate(rows),
        np.concatenate(columns),
        np.concatenate(v2, axis=1),
        np.concatenate(v3, axis=1),
        np.concatenate(wavelengths, axis=1),
        weights,
    )


def get_optics(detector: str, band: str, geometry: str | Path | None = None) -> Optics:
    """The built-in optics of a setting, or those of the reference files in the directory `geometry`."""
    if geometry is not None:
        return read_optics(geometry, detector, band)
    from simulate.mrs_model import build_optics

    return build_optics(detector, band)


def find_geometry_files(directory: str | Path) -> dict[tuple[str, str, str], Path]:
    """Find the MRS geometry reference files of a directory by what they say they are.

    Returns
    -------
    dict
        (reference type, detector, band) to file; detector and band are 'N/A' for wavelengthrange.

    Raises
    ------
    InputError
        If the directory is missing.
    """
    # Whether to read it anew is decided by the file names, sizes and times: a directory can be filled meanwhile.
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"--geometry {directory} is not a directory: name the one with the MRS reference files.")
    return dict(_find_geometry_files(tuple(sorted(directory.glob("*.asdf")))))


@lru_cache(maxsize=4)
def _find_geometry_files(paths: tuple[Path, ...]) -> tuple[tuple[tuple[str, str, str], Path], ...]:
    import asdf

    found = []
    for path in paths:
        with asdf.open(path) as file:
            meta = file.tree.get("meta", {})
        instrument = meta.get("instrument", {})
        reference_type = str(meta.get("reftype", "")).lower()
        if instrument.get("name") == "MIRI" and reference_type in GEOMETRY_TYPES:
            key = (reference_type, instrument.get("detector", "N/A"), instrument.get("band", "N/A"))
            found.append((key, path))
    return tuple(found)


def geometry_files(directory: str | Path, detector: str, band: str) -> dict[str, Path]:
    """Reference type to file of one setting, of the files in a directory.

    Raises
    ------
    FileFormatError
        If a file of the setting is missing.
    """
    available = find_geometry_files(directory)
    files = {}
    for reference_type in GEOMETRY_TYPES:
        key = (reference_type, detector, band)
        if reference_type == "wavelengthrange":
            key = next((k for k in available if k[0] == reference_type), key)
        if key not in available:
            raise FileFormatError(
                f"--geometry {directory} has no {reference_type} file for {detector} {band}: add it or drop the band."
            )
        files[reference_type] = available[key]
    return files


def read_optics(directory: str | Path, detector: str, band: str) -> Optics:
    """Read the optics of a setting from its CRDS reference files.

    Parameters
    ----------
    directory
        Holds `*.asdf` files of the four types, recognised by their metadata.
    detector, band
        Which setting.

    Raises
    ------
    FileFormatError
        If a file of the setting is missing.
    """
    import asdf

    files = geometry_files(directory, detector, band)
    trees = {}
    for reference_type, path in files.items():
        with asdf.open(path, lazy_load=False, memmap=False) as file:
            trees[reference_type] = file.tree
    distortion = trees["distortion"]
    wavelengths = dict(zip(distortion["slices"], trees["specwcs"]["model"], strict=True))
    slices = {
        int(number): SliceModel(alpha, wavelengths[number], float(beta(0.0)), x, y)
        for number, alpha, beta, x, y in zip(
            distortion["slices"],
            distortion["alpha_model"],
            distortion["beta_model"],
            distortion["x_model"],
            distortion["y_model"],
            strict=True,
        )
    }

    def by_channel(entry: Mapping, values: str) -> dict[int, object]:
        return {int(name[0]): value for name, value in zip(entry["channel_band"], entry[values], strict=True)}

    ranges = trees["wavelengthrange"]
    return Optics(
        detector=detector,
        band=band,
        slices=slices,
        slice_width=by_channel(distortion["bdel"], "delta_beta"),
        first_beta=by_channel(distortion["bzero"], "beta_zero"),
        to_v2v3=by_channel(distortion["abv2v3_model"], "model"),
        regions=np.asarray(trees["regions"]["regions"]),
        wavelength_range={
            name: tuple(limits)
            for name, limits in zip(ranges["waverange_selector"], ranges["wavelengthrange"], strict=True)
        },
        files=files,
    )
