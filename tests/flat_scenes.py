"""Four dithers of a planet, simulated or near-real, with a known flat, for the tests of flats."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from cubes import Cube, read_cube, write_cube
from flat_files import RINGS_KM
from navigate import navigate_file
from simulate.cubes import simulate_cube
from simulate.kernels import write_kernels
from simulate.scene import Scene

# Offsets of the MRS 4-point pattern for extended sources along and across the slices [arcsec].
PATTERN = ((-0.245, -0.487), (0.245, 0.487), (0.255, -0.447), (-0.235, 0.527))
SPEED_OF_LIGHT = 299792.458
UTC = "2022-11-13T10:00:00"
# Middle of the field from that of Saturn (east, north) [arcsec].
CENTRES = {"disc": (0.0, 4.0), "limb": (0.0, 6.7)}
SHARED = Path(__file__).parents[1].parent / "shared" / "data"


def simulate_planet(target: str, directory: Path) -> Scene:
    """A planet and the kernels to see it with."""
    write_kernels(directory, UTC, UTC, target)
    return Scene(target, directory)


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


def saturn_by_latitude(directory: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planetographic latitudes, wavelengths [um] and radiances (latitude, wavelength) of zonal-mean spectra."""
    latitudes, spectra = [], []
    for path in directory.glob("*.spx"):
        lines = path.read_text().split("\n")
        latitudes.append(float(lines[0].split()[1]))
        spectra.append(np.array([line.split() for line in lines[4:] if line.strip()], float))
    order = np.argsort(latitudes)
    return np.array(latitudes)[order], spectra[0][:, 0], np.stack([spectra[i][:, 1] for i in order])


def real_dithers(wavelength, latitudes, spectra, footprint, spaxel):
    """Saturn with its spectra on the spaxels of four dithers, through the PSF; SPICE kernels of the real sky."""
    from body_geometry import backplanes
    from observation_geometry import ephemeris_time, observation_geometry, observer_state
    from spice_kernels import kernels_loaded

    fine, margin = 3, 6
    rows, columns = footprint.shape
    y, x = np.mgrid[: (rows + 2 * margin) * fine, : (columns + 2 * margin) * fine]
    y = ((y + 0.5) / fine - 0.5 - margin - (rows - 1) / 2) * spaxel
    x = ((x + 0.5) / fine - 0.5 - margin - (columns - 1) / 2) * spaxel
    turn = np.radians(80.4)
    planes, sci = [], []
    with kernels_loaded(SHARED / "spice"):
        for number, (along, across) in enumerate(PATTERN):
            et = ephemeris_time(f"2022-11-14T01:{10 * number:02d}:00")
            geometry = observation_geometry("SATURN", et, observer_state("JWST", et), SHARED / "spice")
            ra0, dec0 = geometry.target_radec
            dx, dy = x + along, y + across
            east, north = -dx * np.cos(turn) + dy * np.sin(turn), 5.5 + dx * np.sin(turn) + dy * np.cos(turn)
            dec = dec0 + north / 3600
            plane = backplanes(ra0 + east / 3600 / np.cos(np.radians(dec)), dec, geometry, 0.0)
            mu = np.cos(np.radians(np.nan_to_num(plane["EMISSION"], nan=90.0)))
            zonal = np.stack([np.interp(np.nan_to_num(plane["LAT_GRAPHIC"]), latitudes, s) for s in spectra.T])
            # Thermal limb darkening, and waves that move with the planet.
            latitude, longitude = (np.radians(np.nan_to_num(plane[name])) for name in ("LAT", "LON"))
            wave = 1 + 0.02 * np.cos(latitude) ** 2 * np.sin(8 * longitude + 3 * latitude)
            image = zonal * np.maximum(mu, 1e-9) ** 0.3 * wave * np.isfinite(plane["LAT"])
            sigma = (0.033 * wavelength + 0.106) / 2.3548 / spaxel * fine
            image = np.stack([gaussian_filter(i, s) for i, s in zip(image, sigma, strict=True)])
            centres = (slice(margin * fine + fine // 2, -margin * fine, fine),) * 2
            planes.append({name: values[centres] for name, values in plane.items()})
            sci.append(np.where(footprint, image[:, *centres], np.nan))
    return np.stack(sci), {name: np.stack([p[name] for p in planes]) for name in planes[0]}
