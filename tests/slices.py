"""Where the slices of an image slicer lay on the sky in the exposures of a cube, from the simulation's truth.

A slice is nearly as wide as a spaxel, and where its edges lie among the spaxels changes slowly over the field. What a
drizzled spaxel holds is therefore not the scene smoothed by some width: it is the mean over the slices that it touches,
each by the share of its area, of what each slice saw over all its width. Smoothing alone would turn the image of a
single dither by tenths of a degree and shift it by milliarcseconds.
"""

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from simulate import mrs_optics, nirspec_optics
from simulate.nirspec_shutters import GLOW_RATE
from simulate.pointing import MRS_APERTURE, NRS_APERTURE, v2v3_to_sky

POINTS = 9  # along a slice: it is bent a little
REACH = 1.3  # how far from a place, along or across the slices, what falls there is drizzled [spaxels]
ALONG_MRS = 4.0  # half of the length of the longest slices and some more [arcsec]

_get_mrs_optics = lru_cache(maxsize=2)(mrs_optics.get_optics)
_get_nirspec_optics = lru_cache(maxsize=2)(nirspec_optics.get_optics)


def exposures_of(cube_path: Path) -> list[str]:
    """Names of the exposures that a cube was made of, by the association beside it."""
    association = json.loads((cube_path.parent / fits.getheader(cube_path)["ASNTABLE"]).read_text())
    return [Path(member["expname"]).name.rsplit("_", 1)[0] for member in association["products"][0]["members"]]


class SlicedExposure:
    """One exposure's slices in a cube's image.

    Parameters
    ----------
    root, name
        Of the observation, and of the exposure.
    channel
        Of the MRS; anything for NIRSpec.
    target
        RA and Dec of the target in the frame of the cube [deg]: exposures are moved to it.
    wcs
        Celestial WCS of the cube.
    """

    def __init__(self, root: Path, name: str, channel: str, target: tuple[float, float], wcs: WCS) -> None:
        self._truth = json.loads((root / "truth" / f"{name}.json").read_text())
        self._images = root / "truth" / f"{name}.npz"
        self._geometry = json.loads((root / "truth" / "observation.json").read_text())["settings"]["geometry"]
        self._channel, self._target, self._wcs = channel, target, wcs
        self._is_nirspec = self._truth["detector"].startswith("NRS")

    def _to_cube(self, v2: np.ndarray, v3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates in the cube of places in the telescope's focal plane [arcsec]."""
        truth, aperture = self._truth, NRS_APERTURE if self._is_nirspec else MRS_APERTURE
        attitude = aperture.attitude(truth["ra_ref"], truth["dec_ref"], truth["roll_ref"])
        scale = truth["velocity_aberration_scale"]
        v2 = aperture.v2_ref + scale * (v2 - aperture.v2_ref)
        v3 = aperture.v3_ref + scale * (v3 - aperture.v3_ref)
        ra, dec = v2v3_to_sky(v2, v3, attitude)
        # The target moves so little that the cosine of Dec stays the same.
        ra, dec = (
            position + there - truth["scene"][name]
            for position, there, name in zip((ra, dec), self._target, ("ra", "dec"), strict=True)
        )
        return tuple(self._wcs.all_world2pix(ra, dec, 0))

    @cached_property
    def _edges(self) -> np.ndarray:
        """Pixel coordinates of the slices' edges, shape (slice, edge, (x, y), point along the slice), x rising."""
        places = self._nirspec_edges() if self._is_nirspec else self._mrs_edges()
        x, y = self._to_cube(*places)
        order = np.argsort(x, axis=-1)
        return np.stack([np.take_along_axis(values, order, axis=-1) for values in (x, y)], axis=2)

    @cached_property
    def _nirspec_optics(self) -> nirspec_optics.Optics:
        setting = (self._truth[key] for key in ("detector", "grating", "filter"))
        return _get_nirspec_optics(*setting, self._geometry)

    def _nirspec_edges(self) -> np.ndarray:
        """V2 and V3 of the slices' edges, shape (2, slice, edge, point)."""
        across, along = np.meshgrid([-0.5, 0.5], np.linspace(-0.5, 0.5, POINTS), indexing="ij")
        optics = self._nirspec_optics
        places = [optics.slice_to_v2v3(number, across, along) for number in range(nirspec_optics.NUMBER_OF_SLICES)]
        return np.stack(places, axis=1)

    def _mrs_edges(self) -> np.ndarray:
        """The same for a channel of the MRS."""
        channel = int(self._channel)
        optics = _get_mrs_optics(self._truth["detector"], self._truth["band"], self._geometry)
        half = optics.slice_width[channel] / 2
        across, along = np.meshgrid([-half, half], np.linspace(-ALONG_MRS, ALONG_MRS, POINTS), indexing="ij")
        middles = [model.beta for number, model in optics.slices.items() if number // 100 == channel]
        return np.stack([optics.to_v2v3[channel](along, middle + across) for middle in middles], axis=1)

    def spectral_widths(self, wavelength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much of the spectrum a pixel of NIRSpec and the width of a slice cover at wavelengths [um]."""
        optics, number = self._nirspec_optics, nirspec_optics.NUMBER_OF_SLICES // 2
        columns = np.arange(nirspec_optics.NUMBER_OF_COLUMNS, dtype=float)
        rows = np.full_like(columns, np.median(optics.pixels_of_slice(number).rows))
        low, middle, high = (optics.detector_to_slice(number, columns, rows, across)[1] for across in (-0.5, 0, 0.5))
        seen = np.isfinite(low + middle + high)
        widths = np.gradient(middle[seen]), (high - low)[seen]
        return tuple(np.interp(wavelength, middle[seen], np.abs(width)) for width in widths)

    def edges_at(self, x: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper edge of each slice [pixels] in the column x, shape (slice,)."""
        y = np.array([[np.interp(x, *edge) for edge in pair] for pair in self._edges])
        return y.min(axis=1), y.max(axis=1)

    def lit_by_shutters(self, shape: tuple[int, int]) -> np.ndarray:
        """Whether light of NIRSpec's shutters that do not close falls on a spaxel, in an image of this shape."""
        lit = np.zeros(shape, bool)
        if not self._is_nirspec:
            return lit
        with np.load(self._images) as images:
            leaking, slices = images["leak"] > 2 * GLOW_RATE, images["slices"]
        optics = self._nirspec_optics
        y, x = np.indices(shape)
        for number in range(nirspec_optics.NUMBER_OF_SLICES):
            rows, columns = np.nonzero(leaking & (slices == number + 1))
            along, _ = optics.detector_to_slice(number, columns.astype(float), rows.astype(float))
            for place in np.unique(along[np.isfinite(along)].round(2)):
                place_x, place_y = self._to_cube(*optics.slice_to_v2v3(number, 0.0, place))
                lit |= np.maximum(np.abs(x - place_x), np.abs(y - place_y)) < REACH
        return lit


def through_slices(image: np.ndarray, x: np.ndarray, y: np.ndarray, exposures: Sequence[SlicedExposure]) -> np.ndarray:
    """What spaxels one pixel high would hold, had they been drizzled from the slices of some exposures.

    Parameters
    ----------
    image
        The scene on a fine grid, shape (y, x).
    x, y
        Pixel coordinates of its columns and rows, evenly spaced.
    exposures
        All of the same weight.

    Returns
    -------
    ndarray
        For a spaxel at each place of the grid, shape (y, x); 0 beyond the slices.
    """
    step = y[1] - y[0]
    edges = np.append(y - step / 2, y[-1] + step / 2)
    integral = np.concatenate([np.zeros((1, x.size)), np.cumsum(image, axis=0) * step])
    out = np.zeros(image.shape)
    for column, place in enumerate(x):
        total, area = np.zeros(y.size), np.zeros(y.size)
        for exposure in exposures:
            low, high = exposure.edges_at(place)
            seen = np.interp(high, edges, integral[:, column]) - np.interp(low, edges, integral[:, column])
            overlap = np.minimum(high, y[:, np.newaxis] + 0.5) - np.maximum(low, y[:, np.newaxis] - 0.5)
            overlap = np.clip(overlap, 0, None)
            total += overlap @ (seen / (high - low))
            area += overlap.sum(axis=1)
        np.divide(total, area, out=out[:, column], where=area > 0)
    return out
