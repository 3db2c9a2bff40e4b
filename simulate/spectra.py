"""Spectra of the scene's components, tabulated in ln(wavelength), and the Doppler shift.

A component is one term of the brightness in `simulate.scene`: an image times a spectrum. Component images carry two
columns more, the ln of the Doppler factor of planet and of rings relative to the target's centre.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SPEED_OF_LIGHT = 299792.458  # km/s
WAVELENGTHS = (0.6, 29.0)  # um, what the spectra cover
N_PLANET = 6  # components of the disc: flat, darkened, two belt families, spots, emission
RING, LN_PLANET, LN_RING = 6, 7, 8
N_COLUMNS = 9
_LN_STEP = 1e-5  # 3 km/s

LineTable = Sequence[Sequence[float]]


def component_spectra(
    amplitude: float,
    limb_darkening: float,
    belt_contrast: float,
    spot_contrast: float,
    emission_strength: float,
    ring_brightness: float,
    absorption_lines: LineTable,
    emission_lines: LineTable,
) -> np.ndarray:
    """Return the spectral factors [MJy/sr] of the seven components at rest, shape (n, 7), for `at_rest_wavelength`.

    Parameters are those of `simulate.scene.Scene`; lines are Gaussian in ln(wavelength).
    """
    ln = np.arange(np.log(WAVELENGTHS[0]), np.log(WAVELENGTHS[1]) + 1e-3, _LN_STEP)
    base = amplitude * (1 + 0.25 * np.sin(2 * np.pi * (ln - np.log(4.9)) / 0.4))
    for near, profile, depth in _profiles(ln, absorption_lines):
        base[near] *= 1 - depth * profile
    emission = np.zeros_like(ln)
    for near, profile, peak in _profiles(ln, emission_lines):
        emission[near] += peak * profile
    darkening = limb_darkening * (1 + 0.3 * np.sin(2 * np.pi * ln / 0.9))
    columns = (
        base * (1 - darkening),
        base * darkening,
        base * belt_contrast * (1 + 0.5 * np.sin(2 * np.pi * ln / 0.35)),
        base * belt_contrast * (1 - 0.6 * np.cos(2 * np.pi * ln / 0.5 + 1.0)),
        base * spot_contrast,
        amplitude * emission_strength * emission,
        amplitude * ring_brightness * (1 + 0.2 * np.cos(2 * np.pi * ln / 1.3)),
    )
    return np.stack(columns, axis=1)


def at_rest_wavelength(table: np.ndarray, ln: np.ndarray) -> np.ndarray:
    """Interpolate the rows of a table of spectra at ln(rest wavelength in um), shape (n,); returns (n, columns)."""
    position = (ln - np.log(WAVELENGTHS[0])) / _LN_STEP
    row = position.astype(int)
    fraction = (position - row)[:, None]
    return table[row] * (1 - fraction) + table[row + 1] * fraction


def sum_spectra(table: np.ndarray) -> np.ndarray:
    """The integral of each column of a table of spectra over ln(wavelength), from its first row on; same shape."""
    return np.concatenate([np.zeros((1, table.shape[1])), np.cumsum((table[1:] + table[:-1]) / 2, axis=0) * _LN_STEP])


def mean_at_rest_wavelength(summed: np.ndarray, ln: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Mean of the spectra over `width` about ln(rest wavelength in um), shapes (n,), from `sum_spectra`; (n, columns).

    `width` must be many steps of the table (1e-5): its integral is interpolated linearly.
    """
    end, start = at_rest_wavelength(summed, ln + width / 2), at_rest_wavelength(summed, ln - width / 2)
    return (end - start) / width[:, None]


def ln_doppler(velocity: np.ndarray | float) -> np.ndarray | float:
    """Return ln of observed over emitted wavelength, sqrt((1 + b) / (1 - b)), for receding velocities [km/s]."""
    return np.arctanh(np.asarray(velocity) / SPEED_OF_LIGHT)


def draw_lines(rng: np.random.Generator, spacing: float, highest: float) -> list[tuple[float, float, float]]:
    """Draw lines (wavelength [um], sigma / wavelength, strength), `spacing` apart in ln(wavelength) on average."""
    ln = np.arange(np.log(WAVELENGTHS[0]) + 0.005, np.log(WAVELENGTHS[1]) - 0.005, spacing)
    ln = ln + rng.uniform(-0.35, 0.35, ln.size) * spacing
    columns = (np.exp(ln).round(6), (1 / rng.uniform(600, 2500, ln.size)).round(8))
    strengths = (rng.uniform(0.15, 1.0, ln.size) * highest).round(4)
    return [(float(w), float(s), float(d)) for w, s, d in zip(*columns, strengths, strict=True)]


def _profiles(ln: np.ndarray, lines: LineTable) -> list[tuple[slice, np.ndarray, float]]:
    """Return for each line the part of the grid within seven widths, the profile of peak 1 there, and the strength."""
    out = []
    for wavelength, width, strength in lines:
        near = slice(*np.searchsorted(ln, np.log(wavelength) + np.array([-7, 7]) * width))
        out.append((near, np.exp(-0.5 * ((ln[near] - np.log(wavelength)) / width) ** 2), strength))
    return out
