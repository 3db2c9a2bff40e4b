"""The truth: what a planet looks like from JWST at a given time, wavelength and position.

Brightness of the disc, from its sharp components (mu, mu0: cosines of emission and incidence, phi: planetographic
latitude; all of them zero on the night side):

    I = S { (1 - u) + u sqrt(mu mu0) + [b1 B1(phi) + b2 B2(phi) + spots] [1 - u0 + u0 sqrt(mu mu0)] } + E T

with S(lambda) a continuum with absorption lines, u(lambda) the limb darkening, b1(lambda) and b2(lambda) the strengths
of two families of belts, E(lambda) emission lines from a limb-brightened layer T that is brightest at the poles. Rings
have their own smooth spectrum; they dim the planet behind them by exp(-tau / |sin B|), B their opening angle, and lie
in its shadow. All of it is Doppler-shifted by the motion of the point seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from psf_model import psf_fwhm
from simulate.bodies import RINGS, get_body
from simulate.sightlines import Sightlines
from simulate.snapshot import Snapshot
from simulate.spectra import (
    LN_PLANET,
    LN_RING,
    N_COLUMNS,
    N_PLANET,
    RING,
    component_spectra,
    draw_lines,
    ln_doppler,
    sum_spectra,
)

_MEAN_DARKENING = 0.45  # of the belts' and spots' contrast towards the limb


class Scene:
    """A planet or moon with belts, spots, limb darkening, lines and rings; the same for the same arguments.

    Parameters
    ----------
    target : str
        Name of a body of `simulate.bodies`.
    kernels : Path
        Directory of kernels with the target, the Sun and the observer.
    seed : int
        Decides belts, spots and lines where they are not given.
    radius_scale : float
        The body's radii in units of those in the kernels (rings excepted).
    amplitude : float
        Typical brightness [MJy/sr].
    limb_darkening, belt_contrast, spot_contrast, emission_strength, ring_brightness : float
        Mean linear coefficient u; typical relative contrasts; peak of the strongest emission lines and brightness of
        the brightest ring in units of `amplitude`. Zero switches the feature off.
    belts : sequence of (latitude [deg, planetographic], sigma [deg], contrast, family 0 or 1), optional
    spots : sequence of (longitude [deg west], latitude [deg, planetographic], sigma [deg], contrast), optional
    absorption_lines : sequence of (wavelength [um], sigma / wavelength, relative depth), optional
    emission_lines : sequence of (wavelength [um], sigma / wavelength, peak), optional

    Raises
    ------
    ValueError
        If the target is unknown.
    """

    def __init__(
        self,
        target: str,
        kernels: str | Path,
        *,
        seed: int = 1,
        radius_scale: float = 1.0,
        amplitude: float = 5000.0,
        limb_darkening: float = 0.4,
        belt_contrast: float = 0.15,
        spot_contrast: float = 0.2,
        emission_strength: float = 0.4,
        ring_brightness: float = 0.4,
        belts: Sequence[Sequence[float]] | None = None,
        spots: Sequence[Sequence[float]] | None = None,
        absorption_lines: Sequence[Sequence[float]] | None = None,
        emission_lines: Sequence[Sequence[float]] | None = None,
    ) -> None:
        self.body = get_body(target)
        self.kernels = Path(kernels)
        self.seed = seed
        self.radius_scale = radius_scale
        self.amplitude = amplitude
        self.limb_darkening = limb_darkening
        self.belt_contrast = belt_contrast
        self.spot_contrast = spot_contrast
        self.emission_strength = emission_strength
        self.ring_brightness = ring_brightness
        rng = np.random.default_rng(seed)
        drawn = (_draw_belts(rng), _draw_spots(rng), draw_lines(rng, 0.008, 0.6), draw_lines(rng, 0.03, 1.0))
        given = (belts, spots, absorption_lines, emission_lines)
        tables = [np.asarray(d if g is None else g, float) for g, d in zip(given, drawn, strict=True)]
        self.belts, self.spots = (table.reshape(-1, 4) for table in tables[:2])
        self.absorption_lines, self.emission_lines = (table.reshape(-1, 3) for table in tables[2:])
        self.rings = RINGS.get(self.body.name, ()) if ring_brightness > 0 else ()
        self._spectra: np.ndarray | None = None
        self._summed_spectra: np.ndarray | None = None

    def describe(self) -> dict[str, Any]:
        """Return every parameter, ready for JSON; `from_description` makes the same scene of it."""
        return {
            "target": self.body.name,
            "seed": self.seed,
            "radius_scale": self.radius_scale,
            "amplitude": self.amplitude,
            "limb_darkening": self.limb_darkening,
            "belt_contrast": self.belt_contrast,
            "spot_contrast": self.spot_contrast,
            "emission_strength": self.emission_strength,
            "ring_brightness": self.ring_brightness,
            "belts": self.belts.tolist(),
            "spots": self.spots.tolist(),
            "absorption_lines": self.absorption_lines.tolist(),
            "emission_lines": self.emission_lines.tolist(),
        }

    @classmethod
    def from_description(cls, description: dict[str, Any], kernels: str | Path) -> Scene:
        """Return the scene that `describe` described, with the kernels of a directory."""
        return cls(kernels=kernels, **description)

    def snapshot(
        self,
        time: str | float,
        observer: str = "JWST",
        fwhm: Callable[[np.ndarray], np.ndarray] = psf_fwhm,
        wavelength_range: tuple[float, float] = (4.9, 28.6),
        field: tuple[float, float, float] | None = None,
    ) -> Snapshot:
        """Return the view at one time.

        Parameters
        ----------
        time : str or float
            UTC, or TDB seconds past J2000, at the observer.
        observer : str
            SPICE name.
        fwhm : callable
            FWHM of the Gaussian PSF [arcsec] at wavelengths [um]; must rise with wavelength.
        wavelength_range : tuple of float
            Wavelengths [um] that will be asked for; the shortest decides how fine the images are.
        field : (ra, dec, half width), optional
            Square on the sky [deg, deg, arcsec] in which `radiance` will be asked for; by default all of the target.
        """
        return Snapshot(self, time, observer, fwhm, wavelength_range, field)

    def spectra(self) -> np.ndarray:
        """Return the spectral factors [MJy/sr] of the seven components at rest (`simulate.spectra`), shape (n, 7)."""
        if self._spectra is None:
            self._spectra = component_spectra(
                self.amplitude,
                self.limb_darkening,
                self.belt_contrast,
                self.spot_contrast,
                self.emission_strength,
                self.ring_brightness,
                self.absorption_lines,
                self.emission_lines,
            )
        return self._spectra

    def summed_spectra(self) -> np.ndarray:
        """Return the integrals of `spectra` over ln(wavelength) (`simulate.spectra.sum_spectra`)."""
        if self._summed_spectra is None:
            self._summed_spectra = sum_spectra(self.spectra())
        return self._summed_spectra

    def sharp_components(self, view: Sightlines, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the components along rays (n, 3) without PSF.

        Returns
        -------
        columns : ndarray, shape (n, 9)
            Six components of the disc, the rings, and ln(Doppler factor) of planet and rings relative to the centre.
        kind : ndarray of int, shape (n,)
            What is seen; values are equal where nothing has an edge in between.
        """
        surface = view.trace(rays)
        lit = surface.hit & (surface.mu_sun > 0)
        mu = np.clip(surface.mu[lit], 0, 1)
        darkened = np.sqrt(mu * surface.mu_sun[lit])
        contrast = (1 - _MEAN_DARKENING) + _MEAN_DARKENING * darkened
        place = view.longitude_latitude(surface.point[lit])
        longitude, latitude = place["LON"], place["LAT_GRAPHIC"]
        columns = np.zeros((len(rays), N_COLUMNS))
        columns[lit, 0] = 1.0
        columns[lit, 1] = darkened
        for family in (0, 1):
            columns[lit, 2 + family] = contrast * self._belt_pattern(latitude, family)
        columns[lit, 4] = contrast * self._spot_pattern(longitude, latitude)
        polar = np.exp(-0.5 * ((90 - np.abs(latitude)) / 12) ** 2)
        columns[lit, 5] = (0.6 + 0.8 * (1 - mu)) * (1 + 0.8 * polar)
        centre = ln_doppler(view.radial_velocity)
        columns[:, LN_PLANET] = ln_doppler(surface.radial_velocity) - centre
        kind = surface.hit + 2 * lit
        if self.rings:
            radius, distance, velocity, sunlit = view.trace_equator(rays, self.body.gm)
            visible = np.isfinite(distance) & ~(surface.hit & (surface.distance < distance))
            slant = np.abs(rays @ view.rotation[2])
            for number, ring in enumerate(self.rings, start=1):
                seen = visible & (radius >= ring.inner) & (radius < ring.outer)
                columns[seen, :N_PLANET] *= np.exp(-ring.optical_depth / slant[seen])[:, None]
                columns[seen, RING] = ring.brightness * sunlit[seen]
                columns[seen, LN_RING] = ln_doppler(velocity[seen]) - centre
                kind[seen] += 8 * number + 4 * sunlit[seen]
        return columns, kind

    def _belt_pattern(self, latitude: np.ndarray, family: int) -> np.ndarray:
        pattern = np.zeros_like(latitude)
        for centre, sigma, contrast, of in self.belts:
            if int(of) == family:
                pattern += contrast * np.exp(-0.5 * ((latitude - centre) / sigma) ** 2)
        return pattern

    def _spot_pattern(self, longitude: np.ndarray, latitude: np.ndarray) -> np.ndarray:
        """Return the sum of spots, Gaussian in great-circle angle (Fisher distribution, periodic by construction)."""
        pattern = np.zeros_like(latitude)
        where = _unit_vectors(longitude, latitude)
        for west, north, sigma, contrast in self.spots:
            exponent = (where @ _unit_vectors(west, north) - 1) / np.deg2rad(sigma) ** 2
            near = exponent > -25
            pattern[near] += contrast * np.exp(exponent[near])
        return pattern


def _unit_vectors(longitude: np.ndarray | float, latitude: np.ndarray | float) -> np.ndarray:
    lon, lat = np.deg2rad(longitude), np.deg2rad(latitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _draw_belts(rng: np.random.Generator) -> list[tuple[float, float, float, int]]:
    """Draw bright and dark belts in turn from pole to pole, each of one of the two families."""
    count = 14
    centres = np.arange(-80.0, 81.0, 12.0) + rng.uniform(-3, 3, count)
    widths, strengths = rng.uniform(2.5, 5.0, count), rng.uniform(0.5, 1.3, count)
    strengths[1::2] *= -1
    columns = (centres, widths, strengths, rng.integers(0, 2, count))
    return [(round(n, 3), round(s, 3), round(c, 4), int(f)) for n, s, c, f in zip(*columns, strict=True)]


def _draw_spots(rng: np.random.Generator) -> list[tuple[float, float, float, float]]:
    """Draw spots all round the planet, at all latitudes, the golden angle apart: every view has a few."""
    count = 40
    longitudes = (np.arange(count) * 137.508 + rng.uniform(0, 30, count)) % 360
    latitudes = np.linspace(-80, 84, count) + rng.uniform(-2, 2, count)
    signs = np.where(rng.uniform(size=count) < 0.5, -1.0, 1.0)
    columns = (longitudes, latitudes, rng.uniform(3, 7, count), signs * rng.uniform(0.6, 1.3, count))
    return [(round(w, 3), round(n, 3), round(s, 3), round(c, 4)) for w, n, s, c in zip(*columns, strict=True)]
