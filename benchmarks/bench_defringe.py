"""Rows of the table for the 1-D fringe correction, of one band in channel 1, and in channel 4 with its second fringe.

A full field, of which some spectra have data: those of a planet with a few lines and fringes of 2 %. Timed are what
the pipeline does, which divides out the lines that spectra share first, and the method of the library by itself. The
plain loop is one call of the library for each spectrum.
"""

import numpy as np

from benchmarks.workspace import FIELD, Benchmark, Workspace
from cubes import write_cube
from simulate.cubes import FIELDS
from simulate.mrs_optics import BAND_LIMITS

LEAST_RATIO = 5.0
SIGNAL_TO_NOISE = 300
_SPECTRA = 60
_LIBRARY_SPECTRA = 6


def channel_1(space: Workspace) -> Benchmark:
    """A cube of channel 1."""
    return _channel(space, 1, shared_lines=True)


def channel_4(space: Workspace) -> Benchmark:
    """A cube of channel 4."""
    return _channel(space, 4, shared_lines=True)


def channel_1_alone(space: Workspace) -> Benchmark:
    """A cube of channel 1, each spectrum by itself."""
    return _channel(space, 1, shared_lines=False)


def channel_4_alone(space: Workspace) -> Benchmark:
    """A cube of channel 4, each spectrum by itself."""
    return _channel(space, 4, shared_lines=False)


def _channel(space: Workspace, channel: int, shared_lines: bool) -> Benchmark:
    from benchmarks.reference_defringe import reference_spectrum
    from defringe import defringe_1d_file

    wavelength, spectra = fringed_spectra(channel, _SPECTRA, space.planes)
    path = space.directory / f"fringed_{channel}_s3d.fits"
    cube = space.draw(path, str(channel))
    cube.hdul["SCI"].data = np.full((space.planes, *FIELD), np.nan, np.float32)
    cube.sci.reshape(space.planes, -1)[:, :_SPECTRA] = spectra.T
    cube.hdul["ERR"].data = np.abs(cube.sci) / SIGNAL_TO_NOISE
    cube.hdul["DQ"].data = np.isnan(cube.sci).astype(np.uint32)
    step = wavelength[1] - wavelength[0]
    cube.sci_header.update({"CRPIX3": 1.0, "CRVAL3": wavelength[0], "CDELT3": step})
    write_cube(cube, path)
    some = spectra[:_LIBRARY_SPECTRA]
    return Benchmark(
        name=f"defringe_1d ch{channel}" + ("" if shared_lines else " alone"),
        run=lambda: defringe_1d_file(path, space.directory / "defringed_s3d.fits", shared_lines=shared_lines),
        inputs=[path],
        limit=lambda floor, plain: plain / LEAST_RATIO,
        rule="library / 5",
        reference=lambda: [reference_spectrum(flux, wavelength, channel) for flux in some],
        share=_LIBRARY_SPECTRA / _SPECTRA,
    )


def fringed_spectra(channel: int, count: int, planes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Wavelengths [um] and noisy spectra (spectrum, wavelength) with a few lines and fringes, of a short band.

    Parameters
    ----------
    channel
        MRS channel, 1 to 4.
    count
        Number of spectra.
    planes
        Number of wavelengths; without, as many as the channel's cubes have.
    """
    random = np.random.default_rng(channel)
    low, high = BAND_LIMITS[channel, "SHORT"]
    planes = planes or int((high - low) / FIELDS[str(channel)][3])
    wavelength = low + (np.arange(planes) + 0.5) * (high - low) / planes
    continuum = 1000 * (1 + 0.25 * np.sin(2 * np.pi * np.log(wavelength) / 0.4))
    for centre, depth in zip(random.uniform(low, high, 8), random.uniform(-0.3, 1.0, 8), strict=True):
        continuum = continuum * (1 + depth * np.exp(-0.5 * ((wavelength / centre - 1) * 7000) ** 2))
    path = 0.349 * (1 + 2e-3 * random.uniform(-1, 1, (count, 1)))
    fringes = 1 + 0.02 * np.cos(2e4 * np.pi * path / wavelength + random.uniform(0, 2 * np.pi, (count, 1)))
    noise = 1 + random.standard_normal((count, wavelength.size)) / SIGNAL_TO_NOISE
    return wavelength, continuum * fringes * noise
