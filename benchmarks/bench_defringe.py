"""Time the 1-D fringe correction: `python -m benchmarks.bench_defringe`.

The array function on one core, beside one call of the library for each spectrum: spectra of a simulated planet with
fringes of 2 %, of one band in each of two channels (1, and 4 with its second fringe). The library is timed on a few of
them. Design limit: five times the library's speed, with the same numbers.
"""

import sys
import time
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.reference_defringe import reference_spectrum
from command_line import ArgumentParser, run_command
from residual_fringes import fringe_factors
from simulate.cubes import FIELDS
from simulate.mrs_optics import BAND_LIMITS

LIMIT = 5.0
SIGNAL_TO_NOISE = 300
LIBRARY_SPECTRA = 8


def fringed_spectra(channel: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Wavelengths [um] and noisy spectra (spectrum, wavelength) with a few lines and fringes, of a short band."""
    random = np.random.default_rng(channel)
    low, high = BAND_LIMITS[channel, "SHORT"]
    step = FIELDS[str(channel)][3]
    wavelength = low + (np.arange(int((high - low) / step)) + 0.5) * step
    continuum = 1000 * (1 + 0.25 * np.sin(2 * np.pi * np.log(wavelength) / 0.4))
    for centre, depth in zip(random.uniform(low, high, 8), random.uniform(-0.3, 1.0, 8), strict=True):
        continuum = continuum * (1 + depth * np.exp(-0.5 * ((wavelength / centre - 1) * 7000) ** 2))
    path = 0.349 * (1 + 2e-3 * random.uniform(-1, 1, (count, 1)))
    fringes = 1 + 0.02 * np.cos(2e4 * np.pi * path / wavelength + random.uniform(0, 2 * np.pi, (count, 1)))
    noise = 1 + random.standard_normal((count, wavelength.size)) / SIGNAL_TO_NOISE
    return wavelength, continuum * fringes * noise


def _command(argv: Sequence[str] | None) -> int:
    parser = ArgumentParser(prog="python -m benchmarks.bench_defringe", description="Time the 1-D fringe correction.")
    parser.add_argument("--spectra", type=int, default=400, help="in each channel")
    count = parser.parse_args(argv).spectra
    print(f"{'channel':<10}{'time a spectrum':>16}{'library':>12}{'ratio':>8}{'limit':>8}{'differs by':>13}")
    missed = 0
    with threadpool_limits(1):
        for channel in (1, 4):
            wavelength, spectra = fringed_spectra(channel, count)
            start = time.process_time()
            factors, _ = fringe_factors(spectra, wavelength, channel)
            ours = (time.process_time() - start) / count
            reference_spectrum(spectra[0], wavelength, channel)
            start = time.process_time()
            plain = [reference_spectrum(flux, wavelength, channel) for flux in spectra[:LIBRARY_SPECTRA]]
            library = (time.process_time() - start) / LIBRARY_SPECTRA
            differs = np.median(np.abs(spectra[:LIBRARY_SPECTRA] * factors[:LIBRARY_SPECTRA] / plain - 1).max(axis=1))
            missed += library / ours < LIMIT
            print(
                f"{channel:<10}{ours * 1e3:>13.1f} ms{library * 1e3:>9.1f} ms{library / ours:>8.1f}{LIMIT:>8.1f}"
                f"{differs:>13.1e}"
            )
    return 1 if missed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 if the limit is missed."""
    return run_command(_command, argv)


if __name__ == "__main__":
    sys.exit(main())
