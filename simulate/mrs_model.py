"""The built-in model of the MRS optics: smooth, with the numbers of the real instrument.

Gives `simulate.mrs_optics.Optics` for each detector and grating setting. Slice counts, widths and order on the
detector, places and bowing of the slices, plate scales, wavelengths, tilt of the lines of equal wavelength, and where
the channels lie in the telescope's V2/V3 plane were read off the in-flight solution FLT-9 of 2022 (STScI miricoord,
`jwst_miri_mrs*_distortion_flt9.asdf`, `..._specwcs_flt9.asdf`), rounded and smoothed; field sizes and band limits are
those of JDox (Wells et al. 2015, PASP 127, 646; Argyriou et al. 2023, A&A 675, A111).

With Y = (y - 511.5) / 512 and u = x - x_s, where x_s is where the slice's middle crosses the middle row,
    alpha  = +- p (u + bow Y^2)          lambda = l0 + l1 Y + l2 Y^2 + tilt u
"""

from dataclasses import dataclass

import numpy as np
from astropy.modeling import Model, models

from simulate.mrs_optics import CHANNELS_OF_DETECTOR, NUMBER_OF_COLUMNS, NUMBER_OF_ROWS, Optics, SliceModel

MIDDLE_ROW, HALF_HEIGHT = 511.5, 512.0


@dataclass(frozen=True)
class _Channel:
    """Numbers of one channel, the same in its three bands."""

    slices: int
    slice_width: float  # [arcsec]
    field: float  # along the slices, on the sky [arcsec]
    pixel: float  # [arcsec of alpha]
    direction: int  # sign of d alpha / d x
    first_on_left: bool  # whether slice 1 is the leftmost on the detector
    columns: tuple[float, float, float]  # where the leftmost, middle and rightmost slices cross the middle row
    bow: float  # columns by which the slices' ends lie left of their middle
    line_tilt: float  # of lines of equal wavelength at the left edge, opposite at the right [rows per column]
    axes: tuple[tuple[float, float], tuple[float, float]]  # (V2, V3) of one arcsec of alpha and of beta


_AXES = {
    1: ((0.9894, -0.1451), (-0.1451, -0.9894)),
    2: ((0.9899, -0.1419), (-0.1419, -0.9899)),
    3: ((0.9490, -0.1262), (-0.0875, -0.9962)),
    4: ((0.9467, -0.1366), (-0.1720, -0.9850)),
}
_CHANNELS = {
    1: _Channel(21, 0.1772, 3.2, 0.1920, +1, False, (28.0, 263.8, 488.0), 4.5, 0.13, _AXES[1]),
    2: _Channel(17, 0.2797, 4.0, 0.1950, -1, True, (545.6, 776.6, 991.5), 12.0, 0.13, _AXES[2]),
    3: _Channel(16, 0.3898, 5.2, 0.2525, -1, False, (540.3, 782.0, 1003.9), 13.0, -0.15, _AXES[3]),
    4: _Channel(12, 0.6560, 6.6, 0.2696, +1, False, (42.7, 252.0, 451.6), 4.3, -0.12, _AXES[4]),
}

# V2, V3 of alpha = beta = 0 [arcsec].
_ORIGINS = {
    (1, "SHORT"): (-503.341, -318.864),
    (1, "MEDIUM"): (-503.311, -318.974),
    (1, "LONG"): (-503.273, -318.702),
    (2, "SHORT"): (-503.412, -319.145),
    (2, "MEDIUM"): (-503.515, -319.425),
    (2, "LONG"): (-503.326, -319.364),
    (3, "SHORT"): (-503.991, -318.848),
    (3, "MEDIUM"): (-504.042, -319.056),
    (3, "LONG"): (-503.922, -319.036),
    (4, "SHORT"): (-502.710, -319.600),
    (4, "MEDIUM"): (-502.815, -319.511),
    (4, "LONG"): (-502.827, -319.498),
}

# Wavelengths of the middle slice at the bottom, the middle and the top of the detector [um].
_ROW_WAVELENGTHS = {
    (1, "SHORT"): (4.870, 5.345, 5.762),
    (1, "MEDIUM"): (5.625, 6.174, 6.657),
    (1, "LONG"): (6.490, 7.126, 7.683),
    (2, "SHORT"): (7.446, 8.183, 8.835),
    (2, "MEDIUM"): (8.601, 9.451, 10.204),
    (2, "LONG"): (9.933, 10.915, 11.786),
    (3, "SHORT"): (13.568, 12.576, 11.459),
    (3, "MEDIUM"): (15.679, 14.532, 13.241),
    (3, "LONG"): (18.108, 16.786, 15.299),
    (4, "SHORT"): (21.068, 19.434, 17.610),
    (4, "MEDIUM"): (24.612, 22.709, 20.578),
    (4, "LONG"): (28.772, 26.557, 24.070),
}

# How far the edge slices' wavelengths lie below those of the middle slice, relative to the band's width.
_WAVELENGTH_BOW = 0.006
# By how much the lit part of a slice narrows from one throughput plane of `regions` to the next [columns].
_EDGE_STEP = 0.12


def slice_order(count: int, first_on_left: bool) -> list[int]:
    """Slice numbers from left to right on the detector, where the two halves of the field are interleaved."""
    half = (count + 1) // 2
    order = [0] * count
    order[0::2] = range(1, half + 1)
    order[1::2] = range(half + 1, count + 1)
    return order if first_on_left else order[::-1]


def build_optics(detector: str, band: str) -> Optics:
    """The built-in optics of one detector in one grating setting."""
    channels = CHANNELS_OF_DETECTOR[detector]
    regions = np.zeros((9, NUMBER_OF_ROWS, NUMBER_OF_COLUMNS), dtype=np.int16)
    slices, first_beta = {}, {}
    for channel in channels:
        numbers = _CHANNELS[channel]
        first_beta[channel] = -(numbers.slices - 1) / 2 * numbers.slice_width
        for position, index in enumerate(slice_order(numbers.slices, numbers.first_on_left)):
            column = _column_of(numbers, position)
            model = _slice_model(channel, band, index, position, column)
            slices[100 * channel + index] = model
            _fill_regions(regions, 100 * channel + index, model, numbers, column)
    return Optics(
        detector=detector,
        band=band,
        slices=dict(sorted(slices.items())),
        slice_width={channel: _CHANNELS[channel].slice_width for channel in channels},
        first_beta=first_beta,
        to_v2v3={channel: _to_v2v3(channel, band) for channel in channels},
        regions=regions,
        wavelength_range={f"{c}{b}": _wavelength_range(rows) for (c, b), rows in _ROW_WAVELENGTHS.items()},
        files={},
    )


def _wavelength_range(rows: tuple[float, float, float]) -> tuple[float, float]:
    # The other slices reach somewhat beyond the middle one.
    margin = 0.03 * (max(rows) - min(rows))
    return round(min(rows) - margin, 4), round(max(rows) + margin, 4)


def _column_of(numbers: _Channel, position: int) -> float:
    """Where the slice at a position from the left crosses the middle row: the parabola through the three given ones."""
    places = np.array([0.0, (numbers.slices - 1) / 2, numbers.slices - 1.0])
    return float(np.polyval(np.polyfit(places, numbers.columns, 2), position))


def _slice_model(channel: int, band: str, index: int, position: int, column: float) -> SliceModel:
    numbers = _CHANNELS[channel]
    scale = numbers.direction * numbers.pixel
    alpha = _polynomial(column, c0_1=scale, c2_0=scale * numbers.bow)
    bottom, middle, top = _ROW_WAVELENGTHS[channel, band]
    slope, curvature = (top - bottom) / 2, (top + bottom) / 2 - middle
    from_middle = 2 * (index - 1) / (numbers.slices - 1) - 1
    tilt = numbers.line_tilt * (1 - 2 * position / (numbers.slices - 1)) * slope / HALF_HEIGHT
    coefficients = {
        "c0_0": middle - _WAVELENGTH_BOW * abs(top - bottom) * from_middle**2,
        "c1_0": slope,
        "c2_0": curvature,
        "c0_1": tilt,
    }
    wavelength = _polynomial(column, **coefficients)
    beta = (index - (numbers.slices + 1) / 2) * numbers.slice_width
    x, y = _inverse(alpha, wavelength, column, middle, abs(slope))
    return SliceModel(alpha, wavelength, beta, x, y)


def _polynomial(column: float, **coefficients: float) -> Model:
    """A quadratic of (y, x) in the normalised row and the distance from the slice's middle."""
    normalise = (models.Shift(-MIDDLE_ROW) | models.Scale(1 / HALF_HEIGHT)) & models.Shift(-column)
    return normalise | models.Polynomial2D(2, **coefficients)


def _inverse(alpha: Model, wavelength: Model, column: float, middle: float, half_range: float) -> tuple[Model, Model]:
    """Polynomials x(wavelength, alpha) and y(wavelength, alpha), fitted to 0.01 pixel and better."""
    degree = 5
    rows = np.linspace(-20, NUMBER_OF_ROWS + 20, 40)
    y, x = np.meshgrid(rows, column + np.linspace(-20, 20, 17), indexing="ij")
    along = alpha(y, x).ravel()
    normalised = (wavelength(y, x).ravel() - middle) / half_range
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    matrix = np.stack([normalised**i * along**j for i, j in powers], axis=1)
    inverse = []
    solutions = np.linalg.lstsq(matrix, np.stack([x.ravel(), y.ravel()], axis=1), rcond=None)[0]
    for solution in solutions.T:
        coefficients = {f"c{i}_{j}": float(value) for (i, j), value in zip(powers, solution, strict=True)}
        normalise = (models.Shift(-middle) | models.Scale(1 / half_range)) & models.Identity(1)
        inverse.append(normalise | models.Polynomial2D(degree, **coefficients))
    return inverse[0], inverse[1]


def _to_v2v3(channel: int, band: str) -> Model:
    numbers, origin = _CHANNELS[channel], np.array(_ORIGINS[channel, band])
    matrix = np.array(numbers.axes).T
    model = _affine(matrix, origin)
    inverse = np.linalg.inv(matrix)
    model.inverse = _affine(inverse, -inverse @ origin)
    return model


def _affine(matrix: np.ndarray, offset: np.ndarray) -> Model:
    first, second = (
        models.Polynomial2D(1, c0_0=float(zero), c1_0=float(row[0]), c0_1=float(row[1]))
        for zero, row in zip(offset, matrix, strict=True)
    )
    return models.Mapping((0, 1, 0, 1)) | first & second


def _fill_regions(regions: np.ndarray, number: int, model: SliceModel, numbers: _Channel, column: float) -> None:
    half_field = numbers.field / np.hypot(*numbers.axes[0]) / 2
    margin = half_field / numbers.pixel + 2
    left = max(int(column - numbers.bow - margin), 0)
    right = min(int(column + margin) + 2, NUMBER_OF_COLUMNS)
    y, x = np.mgrid[:NUMBER_OF_ROWS, left:right].astype(float)
    distance = np.abs(model.alpha(y, x))
    for plane in range(9):
        # The field size is that of the 80 % plane (the eighth), which `jwst` uses.
        lit = distance <= half_field + (7 - plane) * _EDGE_STEP * numbers.pixel
        regions[plane, :, left:right][lit] = number
