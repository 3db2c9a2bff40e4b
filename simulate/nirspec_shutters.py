"""The NIRSpec micro-shutters, as far as they matter to the IFU: those that do not close let light onto its spectra.

Light from the whole telescope field shines through a shutter that has failed open, whatever the IFU looks at, and is
dispersed onto the detector among the slices' spectra; a weaker glow passes through the closed shutters everywhere. An
exposure with the IFU's own aperture shut (leakcal, IS_IMPRT) shows this light and nothing else (Jakobsen et al. 2022,
A&A 661, A80, section 5). Sizes are those of the instrument: four quadrants of 365 x 171 shutters.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.modeling import models

from simulate.nirspec_detector import NUMBER_OF_COLUMNS, NUMBER_OF_ROWS, REFERENCE_PIXELS
from simulate.nirspec_optics import Optics

SHUTTERS = (365, 171)  # of a quadrant, along and across the dispersion
PITCH = (1.05e-4, 2.04e-4)  # [m]
OPENING = (7.8e-5, 1.78e-4)  # [m]
# Lower left corner of each quadrant [m]: 23 and 37 arcsec of frame lie between them (JDox "NIRSpec Micro-Shutter
# Assembly").
_HALF_FRAME = (0.0045, 0.0071)
_SIDES = {1: (-1, -1), 2: (-1, 1), 3: (1, -1), 4: (1, 1)}


@dataclass(frozen=True)
class Shutter:
    """A shutter that has failed open: its quadrant, 1-4, and column and row in it, from 1."""

    quadrant: int
    column: int
    row: int

    @property
    def place(self) -> tuple[float, float]:
        """Its middle in the plane of the shutters [m]."""
        x, y = corner(self.quadrant)
        return x + (self.column - 1) * PITCH[0], y + (self.row - 1) * PITCH[1]


# A few of some twenty that the instrument has.
FAILED_OPEN = (
    Shutter(1, 320, 70),
    Shutter(2, 280, 120),
    Shutter(3, 80, 33),
    Shutter(3, 210, 145),
    Shutter(4, 60, 20),
    Shutter(4, 150, 95),
)

# What shines through a failed shutter: sky and the outskirts of a bright planet [MJy/sr]. What the closed ones let
# through [DN/s].
LEAK_RADIANCE = 60.0
GLOW_RATE = 1.5


def corner(quadrant: int) -> tuple[float, float]:
    """Middle of the first shutter of a quadrant [m]."""
    x, y = (
        side * frame - (0.0 if side > 0 else (count - 1) * pitch)
        for side, frame, count, pitch in zip(_SIDES[quadrant], _HALF_FRAME, SHUTTERS, PITCH, strict=True)
    )
    return x, y


def shutter_tables() -> dict[str, dict[str, Any]]:
    """The content of the `msa` reference file: the places of all shutters, and of the fixed slits as quadrant 5."""
    columns = [("NO", "i4"), ("XC", "f8"), ("YC", "f8"), ("SIZEX", "f8"), ("SIZEY", "f8")]
    number = np.arange(SHUTTERS[0] * SHUTTERS[1])
    table = np.zeros(number.size, dtype=columns)
    table["NO"] = number + 1
    table["XC"], table["YC"] = number % SHUTTERS[0] * PITCH[0], number // SHUTTERS[0] * PITCH[1]
    table["SIZEX"], table["SIZEY"] = OPENING
    quadrants = {}
    for quadrant in _SIDES:
        x, y = corner(quadrant)
        quadrants[f"Q{quadrant}"] = {"model": models.Shift(x) & models.Shift(y), "data": table}
    slits = np.array([(n, 0.027 + 0.001 * n, 0.0, 8e-5, 1.3e-3) for n in range(6)], dtype=columns)
    return quadrants | {"Q5": {"model": models.Identity(2), "data": slits}}


def operability() -> dict[str, Any]:
    """The content of the `msaoper` reference file."""
    states = {"state": "open", "TA state": "open", "Internal state": "open", "Vignetted": "no"}
    return {
        "title": "Shutters of the simulated observatory",
        "reftype": "MSAOPER",
        "pedigree": "DUMMY",
        "author": "simulated observatory",
        "instrument": "NIRSPEC",
        "exp_type": "NRS_IFU|NRS_MSASPEC",
        "telescope": "JWST",
        "useafter": "2021-01-01T00:00:00",
        "descrip": "reference file of the simulated observatory, not for real data",
        "history": "consistent with the simulated exposures it belongs to",
        "msaoper": [{"Q": s.quadrant, "x": s.column, "y": s.row, **states} for s in FAILED_OPEN],
    }


def leaked_radiance(optics: Optics) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that failed shutters light up.

    Returns
    -------
    rows, columns
        Pixels; one may be there several times.
    wavelength
        [um].
    radiance
        Mean over the pixel [MJy/sr].
    """
    first, last = REFERENCE_PIXELS, NUMBER_OF_ROWS - REFERENCE_PIXELS
    x, edges = np.meshgrid(np.arange(first, last, 1.0), np.arange(first, last + 1.0) - 0.5)
    a_out, b_out = optics.detector_to_disperser(x, edges)
    along = np.linspace(-1.0, 1.0, 41)
    found = []
    for shutter in FAILED_OPEN:
        x_shutter, y_shutter = shutter.place
        opening = np.full_like(along, x_shutter), y_shutter + along * OPENING[1]
        place, wavelength = optics.directions_to_opening(along, *opening, a_out, b_out)
        low, high = np.sort([place[:-1], place[1:]], axis=0)
        inside = np.clip(np.minimum(high, 0.5) - np.maximum(low, -0.5), 0, None) / (high - low)
        wavelength = (wavelength[:-1] + wavelength[1:]) / 2
        seen = (inside > 0) & (wavelength >= optics.light[0]) & (wavelength <= optics.light[1])
        rows, columns = np.nonzero(seen)
        found.append((rows + first, columns + first, wavelength[seen], LEAK_RADIANCE * inside[seen]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def closed_shutter_glow() -> np.ndarray:
    """Count rate of the light that closed shutters let through [DN/s], shape (rows, columns): smooth."""
    y, x = np.indices((NUMBER_OF_ROWS, NUMBER_OF_COLUMNS)) / NUMBER_OF_ROWS - 0.5
    return GLOW_RATE * (1 - 0.6 * x**2 - 0.8 * y**2)
