"""The scene seen at one time: positions, surface geometry, and radiance through the telescope's PSF.

The field of view is imaged component by component (`Scene.sharp_components`) on a grid of 0.02 arcsec or finer, and
smoothed with a ladder of Gaussians; a sample is interpolated bilinearly between pixels and linearly in variance between
rungs. The wavelength enters afterwards: each spectrum is taken at the mean velocity of the light within the PSF.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import spiceypy as spice
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

from simulate.kernels import furnish
from simulate.sightlines import ARCSEC, Intercepts, Sightlines
from simulate.spectra import (
    LN_PLANET,
    LN_RING,
    N_COLUMNS,
    N_PLANET,
    RING,
    SPEED_OF_LIGHT,
    WAVELENGTHS,
    at_rest_wavelength,
    ln_doppler,
    mean_at_rest_wavelength,
)

if TYPE_CHECKING:
    from simulate.scene import Scene

FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))
_GRID_STEP = 0.02  # arcsec
_VARIANCE_RATIO = 1.12  # between rungs of the ladder: blending two is good to 2e-4 of an edge
_CHUNK = 8192  # samples at a time: their corner pixels stay in the processor's cache


class Snapshot:
    """The scene at one time. Made by `Scene.snapshot`; needs no kernels any more.

    Attributes
    ----------
    ra, dec : float
        Astrometric position of the target's centre [deg, ICRF].
    et, distance, light_time, radial_velocity : float
        Time [s TDB past J2000], distance [km], light time [s], velocity of the centre [km/s, receding positive].
    velosys : float
        The VELOSYS keyword [m/s]: barycentric wavelength = topocentric wavelength / (1 + velosys / c).
    view : Sightlines
        The geometry.
    """

    def __init__(
        self,
        scene: Scene,
        time: str | float,
        observer: str,
        fwhm: Callable[[np.ndarray], np.ndarray],
        wavelength_range: tuple[float, float],
        field: tuple[float, float, float] | None,
    ) -> None:
        self.scene = scene
        self.observer = observer
        with furnish(scene.kernels):
            self.et = float(spice.str2et(time)) if isinstance(time, str) else float(time)
            self.utc = spice.et2utc(self.et, "ISOC", 3)
            self.view = Sightlines(scene.body, self.et, observer, scene.radius_scale)
        self.ra, self.dec = float(np.rad2deg(self.view.ra)), float(np.rad2deg(self.view.dec))
        self.distance, self.light_time = self.view.distance, self.view.light_time
        self.radial_velocity, self.velosys = self.view.radial_velocity, self.view.velosys
        self.field = field
        self._fwhm = fwhm
        self._wavelength_range = wavelength_range
        radius = self.view.radii.max() / self.distance / ARCSEC
        finest = float(fwhm(wavelength_range[0]))
        self._step = min(_GRID_STEP, finest / 12, radius / 10)
        self._first_variance = (finest / FWHM_PER_SIGMA) ** 2
        outermost = max([self.view.radii.max(), *(ring.outer for ring in scene.rings)])
        self._extent = 1.001 * outermost / self.distance / ARCSEC
        self._margin = 5 * float(fwhm(wavelength_range[1])) / FWHM_PER_SIGMA + 2 * self._step
        self._sharp: np.ndarray | None = None
        self._origin = (0.0, 0.0)
        self._planes: dict[int, np.ndarray] = {}
        self._stack: tuple[tuple[int, int], np.ndarray] | None = None

    def describe(self) -> dict[str, Any]:
        """Return time and geometry of the view, ready for JSON (angles in deg, km, s, km/s, m/s)."""
        return {
            "utc": self.utc,
            "et": self.et,
            "observer": self.observer,
            "ra": self.ra,
            "dec": self.dec,
            "distance": self.distance,
            "light_time": self.light_time,
            "radial_velocity": self.radial_velocity,
            "velosys": self.velosys,
            "pole_angle": self.view.pole_angle,
            "equatorial_diameter_arcsec": float(2 * self.view.radii[0] / self.distance / ARCSEC),
        }

    def limb_position(self, position_angle: float | None = None) -> tuple[float, float]:
        """Return RA, Dec [deg] of the limb at a position angle [deg, north through east], by default the pole's."""
        angle = self.view.pole_angle if position_angle is None else position_angle
        ra, dec = self.view.positions(*self.view.limb_offset(angle))
        return float(ra), float(dec)

    def on_disc(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Return whether positions [deg] lie on the ellipsoid's disc, lit or not, rings or not; shape of `ra`."""
        _, hit, shape = self._trace(ra, dec)
        return hit.reshape(shape)

    def surface(self, ra: np.ndarray, dec: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is at positions [deg] on the ellipsoid, NaN off it; arrays of the broadcast shape.

        Keys as the backplanes of a navigated cube: LON (west), LON_GRAPHIC (body's positive direction), LAT
        (planetocentric), LAT_GRAPHIC, EMISSION, INCIDENCE, PHASE [deg], RADIAL_VELOCITY [km/s, receding positive].
        """
        surface, hit, shape = self._trace(ra, dec)
        values = self.view.longitude_latitude(surface.point)
        for name, cosine in (("EMISSION", surface.mu), ("INCIDENCE", surface.mu_sun), ("PHASE", surface.cos_phase)):
            values[name] = np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))
        values["RADIAL_VELOCITY"] = surface.radial_velocity
        return {name: np.where(hit, value, np.nan).reshape(shape) for name, value in values.items()}

    def radiance_sharp(
        self, ra: np.ndarray, dec: np.ndarray, wavelength: np.ndarray, frame: str = "topocentric"
    ) -> np.ndarray:
        """Return the radiance [MJy/sr] as `radiance` does, before the telescope's PSF."""
        ra, dec, wavelength = np.broadcast_arrays(ra, dec, self._topocentric(wavelength, frame))
        rays = self.view.rays(*(offset.ravel() for offset in self.view.offsets(ra, dec)))
        columns, _ = self.scene.sharp_components(self.view, rays)
        return self._spectral_sum(columns, np.log(wavelength.ravel())).reshape(ra.shape)

    def radiance(
        self,
        ra: np.ndarray,
        dec: np.ndarray,
        wavelength: np.ndarray,
        frame: str = "topocentric",
        width: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the radiance through the PSF [MJy/sr].

        Parameters
        ----------
        ra, dec : array
            Positions [deg, ICRF].
        wavelength : array
            Wavelengths [um]; the three broadcast against each other.
        frame : 'topocentric' or 'barycentric'
            Wavelengths as they arrive at the observer, or corrected to the solar-system barycentre as in JWST cubes.
        width : array, optional
            Range of ln(wavelength) over which the mean is taken; broadcasts against the others. By default, none.

        Raises
        ------
        ValueError
            If a position lies outside the field, a wavelength outside 0.6-29 um, or the frame is unknown.
        """
        shape = np.broadcast_shapes(np.shape(ra), np.shape(dec), np.shape(wavelength))
        widths = None if width is None else np.broadcast_to(width, shape).reshape(-1)
        east, north = (
            np.broadcast_to(o, shape).reshape(-1) for o in self.view.offsets(np.asarray(ra), np.asarray(dec))
        )
        wavelength = self._topocentric(wavelength, frame)
        self._check_field(east, north)
        ln = np.broadcast_to(np.log(wavelength), shape).reshape(-1)
        variances = (self._fwhm(np.asarray(wavelength, float)) / FWHM_PER_SIGMA) ** 2
        rungs = np.log(variances / self._first_variance) / np.log(_VARIANCE_RATIO)
        first, last = int(np.floor(np.min(rungs))), int(np.floor(np.max(rungs))) + 1
        planes = self._planes_between(first, last)
        rows, width = self._image().shape[:2]
        variances = np.broadcast_to(variances, shape).reshape(-1)
        rungs = np.broadcast_to(np.floor(rungs).astype(int), shape).reshape(-1)
        out = np.empty(east.size)
        for start in range(0, east.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            x = (east[part] - self._origin[0]) / self._step
            y = (north[part] - self._origin[1]) / self._step
            outside = (x < 0) | (y < 0) | (x > width - 2) | (y > rows - 2)
            x, y = np.clip(x, 0, width - 2), np.clip(y, 0, rows - 2)
            column, row = x.astype(int), y.astype(int)
            x, y = x - column, y - row
            rung = rungs[part]
            low = self._first_variance * _VARIANCE_RATIO ** rung.astype(float)
            blend = (variances[part] / low - 1) / (_VARIANCE_RATIO - 1)
            index = (rung - first) * (rows * width) + row * width + column
            corners = np.stack([index, index + 1, index + width, index + width + 1])
            weights = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y])
            corners = np.concatenate([corners, corners + rows * width])
            weights = np.concatenate([weights * (1 - blend), weights * blend]).astype(np.float32)
            columns = np.einsum("kn,knc->nc", weights, planes[corners])
            columns[outside] = 0.0
            out[part] = self._spectral_sum(columns, ln[part], None if widths is None else widths[part])
        return out.reshape(shape)

    def disc_flux_jy(self, wavelength: np.ndarray, rings: bool = False) -> np.ndarray:
        """Return the flux [Jy] of the whole disc at topocentric wavelengths [um], optionally with the rings.

        The disc's light is that which the rings in front of it let through. Lines are widened by rotation.
        """
        wavelength = self._topocentric(wavelength, "topocentric")
        outer = self._extent if rings else 1.001 * self.view.radii.max() / self.distance / ARCSEC
        step = outer / 100
        grid = np.arange(-outer, outer + step, step)
        columns = _antialiased(self.scene, self.view, grid, grid, step, 5).reshape(-1, N_COLUMNS)
        spectra, ln = self.scene.spectra(), np.log(wavelength).ravel()
        total = np.zeros(ln.shape)
        for first, last, shift in ((0, N_PLANET, LN_PLANET), (RING, RING + 1, LN_RING))[: 1 + rings]:
            values = columns[:, first:last]
            seen = values.any(axis=1)
            # light of the same velocity, to 0.1 km/s, is summed before it meets the spectrum
            bins, which = np.unique(np.rint(columns[seen, shift] * SPEED_OF_LIGHT / 0.1), return_inverse=True)
            sums = np.zeros((bins.size, last - first))
            np.add.at(sums, which, values[seen])
            for velocity, weights in zip(bins * 0.1 / SPEED_OF_LIGHT, sums, strict=True):
                rest = ln - ln_doppler(self.radial_velocity) - velocity
                total += at_rest_wavelength(spectra[:, first:last], rest) @ weights
        return (total * 1e6 * (step * ARCSEC) ** 2).reshape(wavelength.shape)

    def _trace(self, ra: np.ndarray, dec: np.ndarray) -> tuple[Intercepts, np.ndarray, tuple[int, ...]]:
        ra, dec = np.broadcast_arrays(ra, dec)
        surface = self.view.trace(self.view.rays(*(offset.ravel() for offset in self.view.offsets(ra, dec))))
        return surface, surface.hit, ra.shape

    def _topocentric(self, wavelength: np.ndarray, frame: str) -> np.ndarray:
        if frame not in ("topocentric", "barycentric"):
            raise ValueError(f"unknown wavelength frame {frame!r}: topocentric or barycentric")
        wavelength = np.asarray(wavelength, float)
        if np.any(wavelength < WAVELENGTHS[0] * 1.001) or np.any(wavelength > WAVELENGTHS[1]):
            raise ValueError(f"wavelengths must lie in {WAVELENGTHS[0]}-{WAVELENGTHS[1]} um")
        return wavelength * (1 + self.velosys / 1000 / SPEED_OF_LIGHT) if frame == "barycentric" else wavelength

    def _check_field(self, east: np.ndarray, north: np.ndarray) -> None:
        if self.field is None or east.size == 0:
            return
        x, y = self.view.offsets(*self.field[:2])
        beyond = max(np.abs(east - x).max(), np.abs(north - y).max()) - self.field[2]
        if beyond > 0:
            raise ValueError(f"positions reach {beyond:.2f} arcsec beyond the snapshot's field: make it wider")

    def _image(self) -> np.ndarray:
        """Return the sharp components on the grid, shape (rows, columns, 9), rows to the north, columns to the east."""
        if self._sharp is None:
            edge = self._extent + self._margin
            low, high = np.array([-edge, -edge]), np.array([edge, edge])
            if self.field is not None:
                middle = np.array(self.view.offsets(*self.field[:2]), float)
                half = self.field[2] + self._margin
                low, high = np.maximum(low, middle - half), np.minimum(high, middle + half)
                high = np.maximum(high, low + 4 * self._step)
            east, north = (np.arange(a, b + self._step, self._step) for a, b in zip(low, high, strict=True))
            self._origin = (east[0], north[0])
            self._sharp = _antialiased(self.scene, self.view, east, north, self._step)
        return self._sharp

    def _planes_between(self, first: int, last: int) -> np.ndarray:
        """Return the smoothed components of rungs `first` to `last`, float32, shape (rungs * rows * columns, 9)."""
        if self._stack is None or self._stack[0] != (first, last):
            self._stack = ((first, last), np.concatenate([self._plane(rung) for rung in range(first, last + 1)]))
        return self._stack[1].reshape(-1, N_COLUMNS)

    def _plane(self, rung: int) -> np.ndarray:
        """Return the components smoothed by the PSF of a rung of the ladder, float32, shape (rows, columns, 9)."""
        if rung not in self._planes:
            sharp = self._image()
            variance = self._first_variance * _VARIANCE_RATIO**rung
            # pixels (variance h^2 / 12) and bilinear interpolation (h^2 / 6) smooth as well
            sigma = np.sqrt(max(variance / self._step**2 - 0.25, 0.0))
            plane = np.zeros(sharp.shape, np.float32)
            ring_columns = (RING,) if self.scene.rings else ()
            for column in (*range(N_PLANET), *ring_columns):
                plane[..., column] = gaussian_filter(sharp[..., column], sigma, mode="constant", truncate=5)
            for weight, shift in ((1, LN_PLANET), *((column, LN_RING) for column in ring_columns)):
                light = sharp[..., 0] + sharp[..., 1] if weight == 1 else sharp[..., weight]
                moment = gaussian_filter(light * sharp[..., shift], sigma, mode="constant", truncate=5)
                light = gaussian_filter(light, sigma, mode="constant", truncate=5)
                plane[..., shift] = np.divide(moment, light, out=np.zeros_like(light), where=light > 1e-12)
            self._planes[rung] = plane
        return self._planes[rung]

    def _spectral_sum(self, columns: np.ndarray, ln: np.ndarray, width: np.ndarray | None = None) -> np.ndarray:
        """Return components (n, 9) times their spectra, each at its velocity, at ln(topocentric wavelength), (n,)."""
        rest = ln - ln_doppler(self.radial_velocity)

        def spectra(part: slice, shift: np.ndarray) -> np.ndarray:
            if width is None:
                return at_rest_wavelength(self.scene.spectra()[:, part], rest - shift)
            return mean_at_rest_wavelength(self.scene.summed_spectra()[:, part], rest - shift, width)

        planet = spectra(slice(N_PLANET), columns[:, LN_PLANET])
        total = np.einsum("nc,nc->n", planet, columns[:, :N_PLANET])
        if self.scene.rings:
            total += spectra(slice(RING, None), columns[:, LN_RING])[:, 0] * columns[:, RING]
        return total


def _antialiased(
    scene: Scene, view: Sightlines, east: np.ndarray, north: np.ndarray, step: float, across: int = 8
) -> np.ndarray:
    """Return sharp components averaged over the pixels of a grid, across^2 samples in and near edges, one elsewhere."""
    x, y = np.meshgrid(east, north)
    columns, kind = scene.sharp_components(view, view.rays(x.ravel(), y.ravel()))
    kind = kind.reshape(x.shape)
    edges = (maximum_filter(kind, 5) != minimum_filter(kind, 5)).ravel()
    fine = ((np.arange(across) + 0.5) / across - 0.5) * step
    dx, dy = (offset.ravel() for offset in np.meshgrid(fine, fine))
    for part in np.array_split(np.flatnonzero(edges), max(1, edges.sum() // 4096)):
        rays = view.rays((x.ravel()[part, None] + dx).ravel(), (y.ravel()[part, None] + dy).ravel())
        samples = scene.sharp_components(view, rays)[0].reshape(part.size, dx.size, N_COLUMNS)
        columns[part] = samples.mean(axis=1)
    return columns.reshape(*x.shape, N_COLUMNS)
