"""The optics of the NIRSpec integral-field unit: detector pixel to sky position and wavelength.

Light goes from the sky through telescope (OTE), fore-optics (fore) and IFU fore-optics (ifufore) onto the image slicer,
whose 30 slices are laid out one above the other as a virtual slit in the plane of the micro-shutters (ifupost), and on
through collimator, grating or prism and camera to the two detectors (fpa). Each is a CRDS reference file; its models
point from the detector to the sky, with inverses, in metres, unit tangents and degrees. At the disperser directions
are direction cosines (a, b, c), in its frame of axes, and with G grooves per metre and order m
    b_out = -b_in      -m G lambda = a_in + a_out      or, for a prism, the refractive index follows from the three
(Dorner et al. 2016, A&A 592, A113; Jakobsen et al. 2022, A&A 661, A80). The content of the files
(`simulate.nirspec_elements`) comes from our smooth model of the instrument or from the real files. It is evaluated here
with astropy.modeling and NumPy alone: the WCS that `jwst` makes of the files is checked against it, not used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from simulate.nirspec_detector import NUMBER_OF_COLUMNS, NUMBER_OF_ROWS, REFERENCE_PIXELS
from simulate.nirspec_elements import WAVELENGTHS, Elements, get_elements
from simulate.samples import Samples

NUMBER_OF_SLICES = 30

# The scene's spectrum starts at 0.6 um at rest: pixels that see shorter wavelengths with a part of a slice stay dark.
SHORTEST_WAVELENGTH = 0.62

# Pixels whose lines of sight lie beyond the ends of a slice by no more than this share of its length get a place, too.
_MARGIN = 0.05
_TABLE_POINTS = 1201
_FIRST, _LAST = REFERENCE_PIXELS, NUMBER_OF_ROWS - REFERENCE_PIXELS - 1  # pixels that see light, in x and in y
_COARSE_STEP = 40
_UNIT_METRES = 1e-6  # of wavelengths [um]


@dataclass(frozen=True)
class SlicePixels:
    """The pixels that one slice lights up.

    Attributes
    ----------
    rows, columns
        Shape (n,).
    along
        Places along the slice of the pixel's lower edge, middle and upper edge, in units of the slice's length from its
        middle, shape (3, n).
    wavelength
        At the pixel's middle, of light from the middle of the slice's width [um], shape (n,).
    coverage
        Share of the pixel that lies between the ends of the slice, shape (n,).
    """

    rows: np.ndarray
    columns: np.ndarray
    along: np.ndarray
    wavelength: np.ndarray
    coverage: np.ndarray


class Optics:
    """The optics of one detector with one grating and filter.

    Parameters
    ----------
    detector, grating, filter_name
        'NRS1' or 'NRS2'; as in `WAVELENGTHS`.
    elements
        The optical elements.
    """

    def __init__(self, detector: str, grating: str, filter_name: str, elements: Elements) -> None:
        self.detector, self.grating, self.filter = detector, grating, filter_name
        self.elements = elements
        contents = elements.contents
        self.disperser = contents["disperser"]
        ranges = contents["wavelengthrange"]
        index = list(ranges["waverange_selector"]).index(f"{filter_name}_{grating}")
        # The range that the instrument model works with [m]: not the same as where the filter lets light through.
        self.model_range = tuple(float(limit) for limit in ranges["wavelengthrange"][index])
        self.order = int(ranges["order"][index])
        slicer = contents["ifuslicer"]["data"]
        self._pixels: dict[int, SlicePixels] = {}
        self._slices = np.array([[float(value) for value in row] for row in slicer])[:, 1:]

    @property
    def light(self) -> tuple[float, float]:
        """Wavelengths that reach the detectors [um]."""
        low, high = WAVELENGTHS[self.grating, self.filter]
        return max(low, SHORTEST_WAVELENGTH), high

    @property
    def has_light(self) -> bool:
        """Whether any light falls on this detector."""
        return any(self.pixels_of_slice(number).rows.size for number in range(NUMBER_OF_SLICES))

    def slit_to_disperser(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Direction cosines (a, b) at the disperser of light from (x, y) in the plane of the micro-shutters [m]."""
        tangents = self.elements.contents["collimator"]["model"].inverse(x, y)
        return self._rotate(*_direction_cosines(*tangents))

    def slice_to_disperser(self, number: int, across: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Direction cosines (a, b) at the disperser of light from a place in a slice.

        Parameters
        ----------
        number
            Of the slice, 0-29.
        across, along
            Place in units of the slice's width and length from its middle; they broadcast.
        """
        x, y = self._on_slicer(number, *np.broadcast_arrays(across, along))
        post = self.elements.contents["ifupost"][f"slice_{number}"]
        x, y = post["linear"](x, y)
        # The chromatic term is taken at one wavelength, as the instrument model does where it is not known yet.
        wavelength = sum(self.model_range) / 2
        x, y = (post[f"{axis}poly"](x, y) + wavelength * post[f"{axis}poly_distortion"](x, y) for axis in ("x", "y"))
        return self.slit_to_disperser(x, y)

    def detector_to_disperser(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Direction cosines (a, b) at the disperser of the light that arrives at zero-based pixels (x, y)."""
        if self.detector == "NRS2":
            # Mounted upside down; images are turned such that wavelengths rise to the right on both.
            x, y = NUMBER_OF_COLUMNS - 1.0 - x, NUMBER_OF_ROWS - 1.0 - y
        contents = self.elements.contents
        focal_plane = contents["fpa"][f"{self.detector.lower()}_model"](x, y)
        return self._rotate(*_direction_cosines(*contents["camera"]["model"](*focal_plane)))

    def wavelength(self, a_in: np.ndarray, b_in: np.ndarray, a_out: np.ndarray) -> np.ndarray:
        """Wavelength [um] that the disperser sends from one direction into the other; NaN where there is none."""
        if "groovedensity" in self.disperser:
            return -(a_in + a_out) / (self.disperser["groovedensity"] * self.order) / _UNIT_METRES
        apex = np.deg2rad(self.disperser["angle"])
        inside = (a_out + a_in * np.cos(2 * apex)) / np.sin(2 * apex)
        index = np.sqrt(inside**2 + a_in**2 + b_in**2)
        return np.interp(index, *self._prism_table, left=np.nan, right=np.nan)

    @cached_property
    def _prism_table(self) -> tuple[np.ndarray, np.ndarray]:
        """Refractive index, rising, and wavelength [um] at the temperature of reference."""
        wavelength = np.arange(0.3, 8.0, 5e-4)[::-1]
        return refractive_index(self.disperser, wavelength), wavelength

    def detector_to_slice(
        self, number: int, x: np.ndarray, y: np.ndarray, across: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Place along a slice and wavelength [um] of the light from a slice that arrives at pixels.

        Parameters
        ----------
        number
            Of the slice, 0-29.
        x, y
            Zero-based pixel coordinates, of the same shape.
        across
            Place in the slice's width, in units of it from its middle.

        Returns
        -------
        along, wavelength
            NaN where no light of this slice can arrive.
        """
        return self._to_slice(number, *self.detector_to_disperser(x, y), across)

    def _to_slice(
        self, number: int, a_out: np.ndarray, b_out: np.ndarray, across: float
    ) -> tuple[np.ndarray, np.ndarray]:
        along = np.linspace(-0.5 - _MARGIN, 0.5 + _MARGIN, _TABLE_POINTS)
        directions = self.slice_to_disperser(number, np.full_like(along, across), along)
        return self._to_place(along, *directions, a_out, b_out)

    def directions_to_opening(
        self, along: np.ndarray, x: np.ndarray, y: np.ndarray, a_out: np.ndarray, b_out: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Place along an opening in the plane of the micro-shutters, and wavelength [um], of light that arrives.

        Parameters
        ----------
        along, x, y
            Points of the opening from one end to the other: by what they are called, and where they lie [m].
        a_out, b_out
            Directions behind the disperser, from `detector_to_disperser`.

        Returns
        -------
        along, wavelength
            NaN where no light of this opening can arrive.
        """
        return self._to_place(along, *self.slit_to_disperser(x, y), a_out, b_out)

    def _to_place(
        self, along: np.ndarray, a_in: np.ndarray, b_in: np.ndarray, a_out: np.ndarray, b_out: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which of the points that send light from (a_in, b_in) sees each direction (a_out, b_out), and wavelength."""
        order = np.argsort(b_in)
        place, a_in = (
            np.interp(-b_out, b_in[order], values[order], left=np.nan, right=np.nan) for values in (along, a_in)
        )
        return place, self.wavelength(a_in, -b_out, a_out)

    def slice_to_v2v3(self, number: int, across: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """V2 and V3 [arcsec] of a place in a slice, in units of its width and length from its middle."""
        x, y = self._on_slicer(number, *np.broadcast_arrays(across, along))
        # All wavelengths look at the same place to better than a microarcsecond in the models' own terms.
        wavelength = np.full(np.shape(x), sum(self.model_range) / 2)
        contents = self.elements.contents
        x, y = contents["ifufore"]["model"](x, y, wavelength)
        x, y = contents["fore"]["model"](x, y, wavelength)
        x, y, _ = contents["chromcorr"]["model"](x, y, wavelength)
        return contents["ote"]["model"](x, y)

    def _on_slicer(self, number: int, across: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, width, length = self._slices[number]
        return self.elements.contents["ifuslicer"]["model"](x + across * width, y + along * length)

    def _rotate(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn direction cosines into the disperser's frame: about x, y, z and, by its tilt, y again."""
        disperser = self.disperser
        angles = np.deg2rad([disperser["theta_x"], disperser["theta_y"], disperser["theta_z"], disperser["tilt_y"]])
        c = np.sqrt(1 - a**2 - b**2)
        for axis, angle in zip("xyzy", angles, strict=True):
            cosine, sine = np.cos(angle), np.sin(angle)
            if axis == "x":
                b, c = b * cosine + c * sine, c * cosine - b * sine
            elif axis == "y":
                a, c = a * cosine - c * sine, c * cosine + a * sine
            else:
                a, b = a * cosine + b * sine, b * cosine - a * sine
        return a, b

    @property
    def pixels(self) -> tuple[SlicePixels, ...]:
        """The pixels that each slice lights up with the light of the filter."""
        return tuple(self.pixels_of_slice(number) for number in range(NUMBER_OF_SLICES))

    def pixels_of_slice(self, number: int) -> SlicePixels:
        """The pixels that a slice, 0-29, lights up with the light of the filter; found once."""
        if number not in self._pixels:
            self._pixels[number] = self._find_pixels(number)
        return self._pixels[number]

    @cached_property
    def _coarse_grid(self) -> tuple[np.ndarray, ...]:
        """All rows of some columns: x, y and the directions (a, b) at the disperser."""
        columns = np.append(np.arange(_FIRST, _LAST, _COARSE_STEP), _LAST)
        x, y = np.meshgrid(columns.astype(float), np.arange(_FIRST, _LAST + 1.0))
        return x, y, *self.detector_to_disperser(x, y)

    def _find_pixels(self, number: int) -> SlicePixels:
        x, y, *directions = self._coarse_grid
        along, wavelength = self._to_slice(number, *directions, 0.0)
        near = np.isfinite(along) & (wavelength > 0.98 * self.light[0]) & (wavelength < 1.02 * self.light[1])
        if not near.any():
            return _no_pixels()
        rows = _around(y[np.isfinite(along)], 3)
        columns = _around(x[near], _COARSE_STEP)
        edges = np.append(rows - 0.5, rows[-1] + 0.5)
        along_edges, _ = self.detector_to_slice(number, *np.meshgrid(columns, edges))
        x, y = np.meshgrid(columns, rows)
        along, wavelength = self.detector_to_slice(number, x, y)
        low, high = np.sort([along_edges[:-1], along_edges[1:]], axis=0)
        inside = np.clip(np.minimum(high, 0.5) - np.maximum(low, -0.5), 0, None) / (high - low)
        seen = (inside > 0) & (wavelength >= self.light[0]) & (wavelength <= self.light[1])
        return SlicePixels(
            rows=y[seen].astype(int),
            columns=x[seen].astype(int),
            along=np.stack([low[seen], along[seen], high[seen]]),
            wavelength=wavelength[seen],
            coverage=inside[seen],
        )

    def slice_map(self) -> np.ndarray:
        """Number of the slice that lights each pixel, from 1; 0 between the slices; shape (rows, columns)."""
        numbers = np.zeros((NUMBER_OF_ROWS, NUMBER_OF_COLUMNS), dtype=np.int16)
        for number, pixels in enumerate(self.pixels, start=1):
            numbers[pixels.rows, pixels.columns] = number
        return numbers


def sample_pixels(optics: Optics, along_slice: int = 3, across_slice: int = 3) -> Samples:
    """Sample every lit pixel along the slice (`along_slice` points) and across it (`across_slice` points).

    Light from different places across a slice arrives at a pixel with different wavelengths: a slice is about two
    pixels wide, and that is what limits the resolution. A pixel at the end of a slice sees what is inside of it.
    """
    nodes_y, weights_y = np.polynomial.legendre.leggauss(along_slice)
    nodes_u, weights_u = np.polynomial.legendre.leggauss(across_slice)
    parts = []
    for number, pixels in enumerate(optics.pixels):
        if not pixels.rows.size:
            continue
        low, high = np.clip(pixels.along[0], -0.5, 0.5), np.clip(pixels.along[2], -0.5, 0.5)
        along = (low + high) / 2 + nodes_y[:, np.newaxis] * (high - low) / 2
        across = nodes_u / 2
        to_sky = _sky_polynomial(optics, number)
        v2, v3 = (np.concatenate([_evaluate(coefficients, u, along) for u in across]) for coefficients in to_sky)
        directions = optics.detector_to_disperser(pixels.columns.astype(float), pixels.rows.astype(float))
        wavelength = [
            np.repeat(optics._to_slice(number, *directions, u)[1][np.newaxis], along_slice, 0) for u in across
        ]
        ahead = optics.detector_to_disperser(pixels.columns + 1.0, pixels.rows.astype(float))
        width = np.abs(np.log(optics._to_slice(number, *ahead, 0.0)[1] / pixels.wavelength))
        # At the edge of the detector's or the prism's range there is no next pixel.
        width = np.where(np.isfinite(width), width, np.nanmedian(width))
        parts.append((pixels, v2, v3, np.concatenate(wavelength), width))
    shape = (across_slice * along_slice, 0)
    return Samples(
        rows=np.concatenate([np.empty(0, int), *(part[0].rows for part in parts)]),
        columns=np.concatenate([np.empty(0, int), *(part[0].columns for part in parts)]),
        v2=np.concatenate([np.empty(shape), *(part[1] for part in parts)], axis=1),
        v3=np.concatenate([np.empty(shape), *(part[2] for part in parts)], axis=1),
        wavelength=np.concatenate([np.empty(shape), *(part[3] for part in parts)], axis=1),
        weights=np.outer(weights_u, weights_y).ravel() / 4,
        coverage=np.concatenate([np.empty(0), *(part[0].coverage for part in parts)]),
        width=np.concatenate([np.empty(0), *(part[4] for part in parts)]),
    )


def _sky_polynomial(optics: Optics, number: int) -> tuple[np.ndarray, np.ndarray]:
    """V2 and V3 of a slice as polynomials: linear across, cubic along, good to a microarcsecond."""
    across, along = (grid.ravel() for grid in np.meshgrid(np.linspace(-0.5, 0.5, 3), np.linspace(-0.5, 0.5, 9)))
    design = np.stack([across**i * along**j for i in range(2) for j in range(4)], axis=1)
    return tuple(np.linalg.lstsq(design, v, rcond=None)[0] for v in optics.slice_to_v2v3(number, across, along))


def _evaluate(coefficients: np.ndarray, across: float, along: np.ndarray) -> np.ndarray:
    combined = coefficients[:4] + across * coefficients[4:]
    return np.polynomial.polynomial.polyval(along, combined)


def _around(pixels: np.ndarray, margin: int) -> np.ndarray:
    """All pixel numbers from the lowest to the highest and some more on either side."""
    return np.arange(max(pixels.min() - margin, _FIRST), min(pixels.max() + margin, _LAST) + 1.0)


def _no_pixels() -> SlicePixels:
    none = np.empty(0)
    return SlicePixels(none.astype(int), none.astype(int), np.empty((3, 0)), none, none)


def _direction_cosines(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = np.sqrt(1 + np.square(x) + np.square(y))
    return x / length, y / length


def refractive_index(prism: Mapping[str, Any], wavelength: np.ndarray) -> np.ndarray:
    """Refractive index of a prism at wavelengths [um] (Sellmeier equation)."""
    square = np.square(wavelength)
    terms = (k * square / (square - c) for k, c in zip(prism["kcoef"], prism["lcoef"], strict=True))
    return np.sqrt(1 + sum(terms))


def get_optics(detector: str, grating: str, filter_name: str, geometry: str | Path | None = None) -> Optics:
    """The built-in optics, or those of the reference files in the directory `geometry`."""
    return Optics(detector, grating, filter_name, get_elements(grating, filter_name, geometry))
