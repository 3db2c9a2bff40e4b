"""The built-in model of the NIRSpec IFU optics: smooth, with the numbers of the real instrument.

Gives the content of the reference files for `simulate.nirspec_optics`. The numbers were read off the instrument model
of the commissioning in 2022 (ESA, as in the CRDS reference files of that year), rounded and smoothed: distortions of
camera and collimator to the third order, places and turns of the slices in the virtual slit as quadratics of their
number, all else linear. The middle of the field lies at the reference point of the aperture NRS_FULL_IFU.
"""

from typing import Any

import numpy as np
from astropy.modeling import Model, models

from simulate.nirspec_elements import WAVELENGTHS, Elements
from simulate.nirspec_optics import NUMBER_OF_SLICES
from simulate.pointing import NRS_APERTURE

# Detectors: pixel [m] and where the first pixel of each lies, mirrored for NRS2 [m].
PIXEL = 1.8e-5
_CORNERS = {"nrs1_model": (1, -0.038171, -0.018423), "nrs2_model": (-1, 0.038171, 0.018421)}

# Unit tangents as polynomials of the place divided by 0.04 m: (power of x, power of y) to coefficient.
_LENGTH = 0.04
_DEGREE, _INVERSE_DEGREE = 3, 9
_CAMERA_X = {(0, 0): -4.30e-4, (1, 0): 0.140867, (0, 1): -1.93e-5, (2, 0): 8.4e-6, (1, 1): 4.694e-3, (0, 2): 2.0e-5}
_CAMERA_X |= {(3, 0): 9.775e-4, (2, 1): 2.21e-5, (1, 2): 1.0060e-3, (0, 3): 4.06e-5}
_CAMERA_Y = {(0, 0): 0.294098, (0, 1): 0.148197, (2, 0): 1.581e-3, (1, 1): -5.3e-6, (0, 2): 6.210e-3}
_CAMERA_Y |= {(3, 0): 2.3e-6, (2, 1): 8.073e-4, (1, 2): 1.68e-5, (0, 3): 8.428e-4}
_COLLIMATOR_X = {(0, 0): 5.83e-5, (1, 0): 0.0628665, (0, 1): -7.59e-5, (2, 0): 8.3e-6, (1, 1): -6.374e-4}
_COLLIMATOR_X |= {(0, 2): -7.8e-6, (3, 0): 7.00e-5, (1, 2): 7.77e-5, (0, 3): 2.6e-6}
_COLLIMATOR_Y = {(0, 0): -0.294517, (1, 0): 2.31e-5, (0, 1): 0.065841, (2, 0): -3.123e-4, (1, 1): 4.9e-6}
_COLLIMATOR_Y |= {(0, 2): -9.950e-4, (2, 1): 7.74e-5, (1, 2): 2.4e-6, (0, 3): 7.46e-5}
_CAMERA_FIELD = ((-0.042, 0.042), (-0.0205, 0.0205))  # where the inverse holds, x and y [m]
_COLLIMATOR_FIELD = ((-0.044, 0.052), (-0.041, 0.041))

# The slicer: width and length of a slice [m]. Even slices lie on one side of its middle, odd ones on the other.
SLICE_WIDTH, SLICE_LENGTH = 0.8e-3, 12e-3
# Virtual slit of even and of odd slices: x and y of a slice's middle [m] and their growth with the place across and
# along the slicer, as quadratics of t = 0 (innermost slice) ... 1 (outermost).
_VIRTUAL_SLIT = (
    {
        "x": (0.0486243, 2.21e-5, 1.87e-5),
        "y": (0.0085260, 0.0278781, -1.50e-5),
        "matrix": (
            ((0.101097, 9.67e-4, -3.10e-4), (-2.174e-4, -7.795e-4, -1.2033e-3)),
            ((2.139e-4, 7.949e-4, 1.2305e-3), (0.100465, 1.665e-3, 4.21e-4)),
        ),
    },
    {
        "x": (0.0486080, 4.32e-5, -2.37e-5),
        "y": (-0.0083829, -0.0279019, 2.72e-5),
        "matrix": (
            ((0.101092, -9.25e-4, -2.41e-4), (4.214e-4, 8.240e-4, 7.639e-4)),
            ((-4.331e-4, -7.942e-4, -6.822e-4), (0.100458, -1.19e-4, -5.3e-5)),
        ),
    },
)

# Slicer to the plane of the micro-shutters: magnifications and where its middle lies in x [m].
_FORE_SCALES, IFU_ENTRANCE = (0.0505149, 0.1026442), 0.041195
# Micro-shutters to the telescope's image plane [deg per m], and from there to V2, V3.
_FORE_MATRIX = ((1.22181, 1.08527), (-1.08352, 1.25203))
_OTE_MATRIX = ((-0.435274, -0.001520), (-0.000470, 0.435792))
# By how much the field's place differs between filters, V2 and V3 [arcsec].
_FILTER_OFFSETS = {
    "CLEAR": (0.016, -0.005),
    "F070LP": (0.013, -0.004),
    "F100LP": (0.020, -0.007),
    "F170LP": (0.007, -0.002),
    "F290LP": (0.0, 0.0),
}

# Grooves per metre and angles of the gratings' mounts: theta_x, theta_y, theta_z, tilt_y [deg].
_GRATINGS = {
    "G140M": (95397.1, 0.0370, 0.0133, 0.0173, -4.20),
    "G140H": (252285.8, 0.0327, -0.0077, -0.0064, -8.80),
    "G235M": (56875.6, 0.0360, 0.0342, 0.0227, -4.20),
    "G235H": (150292.7, 0.0250, -0.0463, -0.0973, -8.75),
    "G395M": (33821.7, 0.0591, 0.0062, 0.0018, -4.10),
    "G395H": (89408.7, 0.0250, -0.0368, 0.0083, -8.80),
}
_PRISM_ANGLES = (0.0344, -0.2825, 0.2944, 24.29)
_PRISM = {
    "angle": -16.5,
    "kcoef": [1.03293407, 0.0123304268, 4.09337187],
    "lcoef": [0.00545608159, 0.038817443, 1264.00781],
    "tcoef": [-2.66e-05, 0.0, 0.0, 0.0, 0.0, 0.0],
    "tref": 35.0,
    "pref": 0.0,
    "wbound": [4e-07, 7e-06],
}
# The wheel's position sensors when the mounts' angles were measured, and how they answer to it [arcsec].
GWA_READINGS = (0.33, 0.13)
_GWA_SLOPES = (-8900.0, 3500.0)


def build_elements(grating: str, filter_name: str) -> Elements:
    """The built-in optical elements of a grating and filter."""
    selectors = list(WAVELENGTHS)
    contents = {
        "camera": {"model": _with_inverse(*_distortion(_CAMERA_X, _CAMERA_Y, _CAMERA_FIELD))},
        "collimator": {"model": _with_inverse(*_distortion(_COLLIMATOR_X, _COLLIMATOR_Y, _COLLIMATOR_FIELD)[::-1])},
        "fpa": {name: _scaled(sign * PIXEL, x, y) for name, (sign, x, y) in _CORNERS.items()},
        "disperser": build_disperser(grating),
        "ifupost": {f"slice_{number}": _virtual_slit(number) for number in range(NUMBER_OF_SLICES)},
        "ifuslicer": {"data": _slicer(), "model": models.Identity(2)},
        "ifufore": {"model": _with_wavelength(_ifu_fore())},
        "fore": {"model": _with_wavelength(_fore(filter_name))},
        # Not Identity(3), which is its own inverse and cannot be written to a file.
        "chromcorr": {"model": models.Shift(0.0) & models.Shift(0.0) & models.Identity(1)},
        "ote": {"model": _telescope()},
        "wavelengthrange": {
            "waverange_selector": [f"{name}_{of_grating}" for of_grating, name in selectors],
            "wavelengthrange": [[1e-6 * limit for limit in WAVELENGTHS[pair]] for pair in selectors],
            "order": [0 if of_grating == "PRISM" else -1 for of_grating, _ in selectors],
        },
    }
    return Elements(contents, {})


def build_disperser(grating: str) -> dict[str, Any]:
    """The content of a disperser's reference file."""
    angles = _PRISM_ANGLES if grating == "PRISM" else _GRATINGS[grating][1:]
    content: dict[str, Any] = dict(zip(("theta_x", "theta_y", "theta_z", "tilt_y"), angles, strict=True))
    content |= _PRISM if grating == "PRISM" else {"groovedensity": _GRATINGS[grating][0]}
    content["tilt_x"] = 0.0
    for axis, reading, slope in zip("xy", GWA_READINGS, _GWA_SLOPES, strict=True):
        content[f"gwa_tilt{axis}"] = {
            "temperatures": [37.5],
            "zeroreadings": [reading],
            "unit": "arcsec",
            "tilt_model": models.Polynomial1D(1, c0=-slope * reading, c1=slope),
        }
    return content


def slice_position(number: int) -> float:
    """Where the middle of a slice lies across the slicer, in slice widths from its middle."""
    return (number // 2 + 0.5) * (1 if number % 2 == 0 else -1)


def _slicer() -> np.ndarray:
    columns = [("NO", "i4"), ("XC", "f8"), ("YC", "f8"), ("SIZEX", "f8"), ("SIZEY", "f8")]
    rows = [(n, slice_position(n) * SLICE_WIDTH, 0.0, SLICE_WIDTH, SLICE_LENGTH) for n in range(NUMBER_OF_SLICES)]
    return np.array(rows, dtype=columns)


def _virtual_slit(number: int) -> dict[str, Model]:
    numbers = _VIRTUAL_SLIT[number % 2]
    t = (number // 2) / (NUMBER_OF_SLICES // 2 - 1)
    x, y, matrix = (
        np.polynomial.polynomial.polyval(t, np.moveaxis(np.array(numbers[key]), -1, 0)) for key in ("x", "y", "matrix")
    )
    linear = (
        models.Shift(-slice_position(number) * SLICE_WIDTH) & models.Shift(0.0)
        | models.AffineTransformation2D(matrix)
        | models.Shift(float(x)) & models.Shift(float(y))
    )
    return {
        "linear": linear,
        "xpoly": models.Polynomial2D(1, c1_0=1.0),
        "ypoly": models.Polynomial2D(1, c0_1=1.0),
        "xpoly_distortion": models.Polynomial2D(1),
        "ypoly_distortion": models.Polynomial2D(1),
    }


def _scaled(scale: float, x: float, y: float) -> Model:
    return models.Scale(scale) & models.Scale(scale) | models.Shift(x) & models.Shift(y)


def _distortion(x_terms: dict, y_terms: dict, field: tuple) -> tuple[Model, Model]:
    """Polynomials of a place [m] that give unit tangents, and their inverse, fitted to 0.001 pixel and better."""
    forward = _polynomials(x_terms, y_terms, _DEGREE, (0.0, 0.0), (_LENGTH, _LENGTH))
    x, y = np.meshgrid(*(np.linspace(*limits, 60) for limits in field))
    tangents = [values.ravel() for values in forward(x, y)]
    middles = [(v.max() + v.min()) / 2 for v in tangents]
    halves = [np.ptp(v) / 2 for v in tangents]
    u, v = ((values - middle) / half for values, middle, half in zip(tangents, middles, halves, strict=True))
    powers = [(i, j) for i in range(_INVERSE_DEGREE + 1) for j in range(_INVERSE_DEGREE + 1 - i)]
    design = np.stack([u**i * v**j for i, j in powers], axis=1)
    solution = np.linalg.lstsq(design, np.stack([x.ravel(), y.ravel()], axis=1), rcond=None)[0]
    terms = [dict(zip(powers, column, strict=True)) for column in solution.T]
    return forward, _polynomials(*terms, _INVERSE_DEGREE, middles, halves)


def _with_inverse(model: Model, inverse: Model) -> Model:
    model.inverse = inverse
    return model


def _polynomials(x_terms: dict, y_terms: dict, degree: int, middle: tuple, half: tuple) -> Model:
    normalise = (models.Shift(-float(middle[0])) | models.Scale(1 / float(half[0]))) & (
        models.Shift(-float(middle[1])) | models.Scale(1 / float(half[1]))
    )
    x, y = (
        models.Polynomial2D(degree, **{f"c{i}_{j}": float(value) for (i, j), value in terms.items()})
        for terms in (x_terms, y_terms)
    )
    return normalise | models.Mapping((0, 1, 0, 1)) | x & y


def _ifu_fore() -> Model:
    scales = models.Scale(_FORE_SCALES[0]) & models.Scale(_FORE_SCALES[1])
    return scales | models.Shift(IFU_ENTRANCE) & models.Shift(0.0)


def _fore(filter_name: str) -> Model:
    x, y = np.linalg.solve(np.array(_OTE_MATRIX) * 3600, _FILTER_OFFSETS[filter_name])
    matrix = models.AffineTransformation2D(np.array(_FORE_MATRIX), translation=(float(x), float(y)))
    return models.Shift(-IFU_ENTRANCE) & models.Shift(0.0) | matrix


def _telescope() -> Model:
    to_arcsec = models.Scale(3600.0) & models.Scale(3600.0)
    place = models.Shift(NRS_APERTURE.v2_ref) & models.Shift(NRS_APERTURE.v3_ref)
    return models.AffineTransformation2D(np.array(_OTE_MATRIX)) | to_arcsec | place


def _with_wavelength(model: Model) -> Model:
    """The same for inputs (x, y, wavelength), which the real models depend on; the inverse likewise."""
    without = models.Mapping((0, 1), n_inputs=3)
    return _with_inverse(without | model, without | model.inverse)
