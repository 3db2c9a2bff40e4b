"""Four dithers of a simulated planet with a known flat, for the tests of flats."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from construct_flat_field import RINGS_KM
from cubes import Cube, read_cube, write_cube
from navigate import navigate_file
from simulate.cubes import simulate_cube

# Offsets of the MRS 4-point pattern for extended sources along and across the slices [arcsec].
PATTERN = ((-0.245, -0.487), (0.245, 0.487), (0.255, -0.447), (-0.235, 0.527))
SPEED_OF_LIGHT = 299792.458


def simulate_dithers(
    scene, directory: Path, centre: tuple[float, float], *, minutes: int = 12, **options
) -> list[Path]:
    """Navigated cubes of four dithers round a centre (east, north) [arcsec], `minutes` apart."""
    angle = 80.4
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    paths = []
    for number, (along, across) in enumerate(PATTERN, start=1):
        offset = (centre[0] - along * cosine + across * sine, centre[1] + along * sine + across * cosine)
        path = directory / f"d{number}_s3d_nav.fits"
        utc = f"2022-11-13T10:{(number - 1) * minutes:02d}:00"
        simulate_cube(scene, utc, path, offset=offset, rotation_deg=angle, dither=number, dithers=4, **options)
        navigate_file(path, path, kernel_path=scene.kernels)
        paths.append(path)
    return paths


@dataclass
class Dithers:
    """What `construct_flat` takes, of some cubes."""

    sci: np.ndarray
    geometry: tuple[np.ndarray, np.ndarray, np.ndarray]
    velocity: np.ndarray
    excluded: np.ndarray

    @classmethod
    def of(cls, paths: list[Path]) -> "Dithers":
        cubes = [read_cube(path) for path in paths]

        def plane(name: str) -> np.ndarray:
            return np.stack([cube.hdul[name].data for cube in cubes])

        distance = plane("DISTANCE_RINGS")
        rings = RINGS_KM.get(cubes[0].header["NAVTARG"], (0, 0))
        excluded = (distance > rings[0] - 8000) & (distance < rings[1] + 8000)
        geometry = (plane("LAT"), plane("LON"), plane("EMISSION"))
        sci = np.stack([cube.sci for cube in cubes]).astype(float)
        return cls(sci, geometry, (plane("DOPPLER_BARY") - 1) * SPEED_OF_LIGHT, excluded)

    def observed(self, flat: np.ndarray, snr: float | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Brightness through a flat and its error, with noise if there is a signal-to-noise ratio."""
        sci = self.sci * flat
        err = sci / (snr or 1000.0)
        if snr:
            sci = sci + err * np.random.default_rng(seed).standard_normal(sci.shape)
        return sci, err

    @property
    def options(self) -> dict[str, np.ndarray]:
        return {"velocity": self.velocity, "excluded": self.excluded}


def stripes(shape: tuple[int, int], rms: float, kind: str, seed: int = 0) -> np.ndarray:
    """A flat of mean 1: 'slices' (steps and waves along them), 'rows', or 'spaxels' of their own."""
    random = np.random.default_rng(seed)
    rows, columns = shape
    if kind == "slices":
        number = (np.arange(rows) * 0.13 / 0.177).astype(int)
        level, phase = random.standard_normal(rows)[number], random.uniform(0, 6, rows)[number]
        pattern = level[:, None] + 0.5 * np.sin(2 * np.pi * np.arange(columns) / 7 + phase[:, None])
    elif kind == "rows":
        pattern = np.repeat(random.standard_normal(rows)[:, None], columns, axis=1)
    else:
        pattern = random.standard_normal(shape)
    return 1 + rms * (pattern - pattern.mean()) / pattern.std()


def misfit(flat: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """ln of flat over truth, mean 0 at each wavelength."""
    difference = np.log(flat / truth)
    known = np.isfinite(difference)
    mean = np.where(known, difference, 0).sum(axis=(1, 2)) / np.maximum(known.sum(axis=(1, 2)), 1)
    return difference - mean[:, None, None]


def multiply(path_in: Path, path_out: Path, flat: np.ndarray) -> Path:
    """A cube seen through a flat."""
    cube = read_cube(path_in)
    cube.sci[:] *= flat
    cube.err[:] *= flat
    write_cube(cube, path_out)
    return path_out


def crop(cube: Cube, bottom: int, left: int) -> None:
    """Take rows from the bottom and columns from the left of a cube and its backplanes; the WCS follows."""
    _, rows, columns = cube.shape
    for hdu in cube.hdul:
        if hdu.data is not None and hdu.data.ndim >= 2 and hdu.data.shape[-2:] == (rows, columns):
            hdu.data = hdu.data[..., bottom:, left:].copy()
    cube.sci_header["CRPIX1"] -= left
    cube.sci_header["CRPIX2"] -= bottom
