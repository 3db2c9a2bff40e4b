"""Fringes like those of the simulated observatory, and measured spectra to put them on."""

import numpy as np

from simulate.mrs_calibration import RESIDUAL_FRINGE_PATH

UTC = "2022-11-13T10:00:00"
AMPLITUDE = 0.02


def fringes_like_the_simulator(wavelength, shape, spaxels_per_slice=2, seed=3, amplitude_scatter=0.0):
    """(wavelength, y, x): another phase (and amplitude) in each slice, and a path that changes along it."""
    random = np.random.default_rng(seed)
    y, x = np.indices(shape)
    phase = random.uniform(0, 2 * np.pi, shape[0])[y // spaxels_per_slice]
    amplitude = AMPLITUDE * (1 + amplitude_scatter * random.uniform(-1, 1, shape[0]))[y // spaxels_per_slice]
    path = RESIDUAL_FRINGE_PATH * (1 + 4e-3 * (x / shape[1] - 0.5))
    return 1 + amplitude * np.cos(2e4 * np.pi * path / wavelength[:, None, None] + phase)


def measured_saturn(folder, shape):
    """Wavelengths, and a field like the zonal means of Saturn in a folder, from south to north; of median 1000."""
    zones = []
    for path in folder.glob("*.spx"):
        text = path.read_text().split("\n")
        table = np.loadtxt(text[4 : 4 + int(float(text[1].split()[0]))])
        zones.append((float(text[0].split()[1]), table[:, 1]))
    zones = np.array([spectrum for _, spectrum in sorted(zones, key=lambda zone: zone[0])])
    place = np.linspace(0, len(zones) - 1, shape[0])
    low = np.minimum(place.astype(int), len(zones) - 2)
    rows = zones[low] * (1 - (place - low))[:, None] + zones[low + 1] * (place - low)[:, None]
    return table[:, 0], np.repeat(rows.T[:, :, None], shape[1], axis=2) / np.median(rows) * 1e3
