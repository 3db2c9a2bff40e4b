"""SPICE kernels of the simulated observatory, made on the spot: nothing is downloaded.

Positions of the Sun and planets are astropy's built-in ephemeris (ERFA: `epv00` for the Earth, `plan94` for the
planets, Simon et al. 1994, A&A 282, 663: about an arcminute), leap seconds are ERFA's, shapes, rotation and moon orbits
those of `simulate.bodies`. JWST flies a halo orbit about the Sun-Earth L2 point: two harmonics of its half-year period
in the rotating frame, fitted to the trajectory that JPL Horizons gives for 2022-2025 (rms 40 000 km; 10 arcsec seen
from Jupiter).

Every SPK segment is type 2 (Chebyshev polynomials of position), so velocities are the derivatives of positions exactly.
The files lie in one directory, where PlanetMapper finds them: `leapseconds.tls`, `iau2015.tpc`, `planets.bsp`,
`satellites.bsp` and `jwst.bsp`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import spiceypy as spice

from simulate.bodies import BARYCENTRE_OF_ANGLE, BODIES, NUTATION_ANGLES, Body, get_body, moons_of

JWST_ID = -170
AU = 1.495978707e8  # km
SECONDS_PER_DAY = 86400.0
PADDING_DAYS = 15.0  # coverage before the start and after the end: light time, and room for other dates nearby

# Semi-axes of the bodies that are never targets but that SPICE wants for terminators and ground stations [km].
_OTHER_BODIES_PCK = """
BODY10_RADII      = ( 695700.0  695700.0  695700.0 )
BODY10_POLE_RA    = ( 286.13  0.  0. )
BODY10_POLE_DEC   = (  63.87  0.  0. )
BODY10_PM         = (  84.176  14.1844000  0. )
BODY399_RADII     = ( 6378.1366  6378.1366  6356.7519 )
BODY399_POLE_RA   = (   0.  -0.641  0. )
BODY399_POLE_DEC  = (  90.  -0.557  0. )
BODY399_PM        = ( 190.147  360.9856235  0. )
"""

# JWST relative to the Earth-Moon barycentre [1000 km, at a distance of 1 au from the Sun]: columns x away from the Sun,
# y along the Earth's motion, z towards ecliptic north; rows constant, cos, sin, cos 2, sin 2 of time over period.
_HALO_PERIOD_DAYS = 179.7
_HALO_COEFFICIENTS = np.array(
    [
        [1397.7, 0.2, -74.9],
        [2.6, -767.6, -56.6],
        [-248.7, -21.3, 377.5],
        [-26.4, 2.3, -23.4],
        [-0.5, -25.8, -2.7],
    ]
)

PositionFunction = Callable[[np.ndarray], np.ndarray]


@contextmanager
def furnish(directory: str | Path) -> Iterator[list[Path]]:
    """Load the kernels of a directory and unload them, and nothing else, when the block ends.

    They are found and ordered the way PlanetMapper does: all `.bsp`, `.tpc` and `.tls` files below the directory, the
    deepest first, then by name; later ones take precedence.

    Parameters
    ----------
    directory : str or Path
        A directory, or a single kernel file.

    Yields
    ------
    list of Path
        The files loaded, in order.

    Raises
    ------
    FileNotFoundError
        If there is no kernel.
    """
    directory = Path(directory)
    paths = (
        [directory] if directory.is_file() else [p for s in ("bsp", "tpc", "tls") for p in directory.rglob(f"*.{s}")]
    )
    if not paths:
        raise FileNotFoundError(f"no SPICE kernels (.bsp, .tpc, .tls) in {directory}")
    paths.sort(key=lambda p: (-len(p.resolve().parts), str(p.parent), p.name))
    loaded: list[Path] = []
    try:
        for path in paths:
            spice.furnsh(str(path))
            loaded.append(path)
        yield loaded
    finally:
        for path in reversed(loaded):
            spice.unload(str(path))


def write_kernels(directory: str | Path, start: str, end: str, target: str | None = None) -> list[Path]:
    """Write leap seconds, constants and ephemerides for the days from `start` to `end`, 15 days more on both sides.

    Parameters
    ----------
    directory : Path
        Made if it does not exist; kernels of the same names in it are replaced.
    start, end : str
        UTC dates in any form `spice.str2et` reads.
    target : str, optional
        Write moons and planet centre of this body's planetary system only; the default writes all systems.

    Returns
    -------
    list of Path
        The five files written (under 1 MB together for a month).

    Raises
    ------
    ValueError
        If the target is unknown or the end is before the start.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    systems = {get_body(target).barycentre} if target else {body.barycentre for body in BODIES.values()}
    leapseconds = directory / "leapseconds.tls"
    leapseconds.write_text(leapseconds_kernel())
    constants = directory / "iau2015.tpc"
    constants.write_text(constants_kernel())
    with furnish(leapseconds):
        first, last = spice.str2et(start), spice.str2et(end)
    if last < first:
        raise ValueError(f"the kernels' end {end} is before their start {start}")
    span = (first - PADDING_DAYS * SECONDS_PER_DAY, last + PADDING_DAYS * SECONDS_PER_DAY)

    planets, satellites, spacecraft = (directory / f"{name}.bsp" for name in ("planets", "satellites", "jwst"))
    names = ("sun", "mercury", "venus", "earth-moon-barycenter", "mars", "jupiter", "saturn", "uranus", "neptune")
    segments: list[tuple[int, int, PositionFunction, float]] = []
    for number, name in enumerate(names):
        segments.append((number or 10, 0, lambda et, name=name: _barycentric(name, et), 8.0))
    for naif_id, name in ((399, "earth"), (301, "moon")):
        segments.append((naif_id, 3, lambda et, name=name: _barycentric(name, et) - _barycentric(names[3], et), 4.0))
    segments.append((199, 1, lambda et: np.zeros((et.size, 3)), 8.0))
    segments.append((299, 2, lambda et: np.zeros((et.size, 3)), 8.0))
    _write_spk(planets, segments, span)

    segments = []
    for planet in (body for body in BODIES.values() if body.orbit_radius == 0 and body.barycentre in systems):
        moons = moons_of(planet)
        interval = min(360.0 / abs(moon.meridian[1]) for moon in moons) / 2
        offset = _planet_offset_function(moons, planet.gm)
        segments.append((planet.naif_id, planet.barycentre, offset, interval))
        for moon in moons:

            def position(et: np.ndarray, moon: Body = moon, offset: PositionFunction = offset) -> np.ndarray:
                return offset(et) + moon_position(moon, et)

            segments.append((moon.naif_id, planet.barycentre, position, interval))
    _write_spk(satellites, segments, span)
    _write_spk(spacecraft, [(JWST_ID, 3, jwst_position, 8.0)], span)
    return [leapseconds, constants, planets, satellites, spacecraft]


def leapseconds_kernel() -> str:
    """Return the text of a leap-seconds kernel with ERFA's table of TAI - UTC since 1972."""
    import erfa

    months = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
    rows = [
        f"{int(row['tai_utc']):4d},   @{row['year']}-{months[row['month'] - 1]}-1"
        for row in erfa.leap_seconds.get()
        if row["year"] >= 1972
    ]
    lines = ["\\begindata", "DELTET/DELTA_T_A = 32.184", "DELTET/K = 1.657D-3", "DELTET/EB = 1.671D-2"]
    lines += ["DELTET/M = ( 6.239996D0 1.99096871D-7 )", "DELTET/DELTA_AT = (", *rows, ")", "\\begintext"]
    return "\n".join(["KPL/LSK", "", "Leap seconds from ERFA, for the simulated observatory.", "", *lines, ""])


def constants_kernel() -> str:
    """Return the text of a constants kernel: radii and rotation of the bodies of `simulate.bodies`, Sun and Earth."""
    lines = ["KPL/PCK", "", "IAU 2015 shapes and rotation (Archinal et al. 2018), for the simulated observatory."]
    lines += ["", "\\begindata", *_OTHER_BODIES_PCK.split("\n")]
    order: dict[int, list[str]] = {}
    for name in NUTATION_ANGLES:
        order.setdefault(BARYCENTRE_OF_ANGLE[name.lstrip("123456789")[0]], []).append(name)
    for barycentre, names in order.items():
        pairs = [f"{value!r}" for name in names for value in NUTATION_ANGLES[name]]
        lines += [f"BODY{barycentre}_NUT_PREC_ANGLES = (", *pairs, ")"]
    for body in BODIES.values():
        prefix = f"BODY{body.naif_id}"
        lines.append(f"{prefix}_RADII = ( {' '.join(map(repr, body.radii))} )")
        columns = (("RA", "POLE_RA", body.pole_ra), ("DEC", "POLE_DEC", body.pole_dec), ("PM", "PM", body.meridian))
        for column, (term, expression, (value, rate)) in enumerate(columns):
            lines.append(f"{prefix}_{expression} = ( {value!r} {rate!r} 0.0 )")
            if body.periodic:
                amplitudes = [body.periodic.get(name, (0.0, 0.0, 0.0))[column] for name in order[body.barycentre]]
                lines += [f"{prefix}_NUT_PREC_{term} = (", *map(repr, amplitudes), ")"]
        lines.append(f"{prefix}_LONG_AXIS = ( 0.0 )")
    return "\n".join([*lines, "\\begintext", ""])


def jwst_position(et: np.ndarray) -> np.ndarray:
    """Return JWST's position relative to the Earth-Moon barycentre [km, ICRF], shape (n, 3), at TDB s past J2000."""
    radius = _barycentric("earth-moon-barycenter", et) - _barycentric("sun", et)
    distance = np.linalg.norm(radius, axis=1, keepdims=True)
    x = radius / distance
    obliquity = np.deg2rad(23.4392911)
    z = np.array([0.0, -np.sin(obliquity), np.cos(obliquity)])
    y = np.cross(z, x)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    angle = 2 * np.pi * np.asarray(et) / SECONDS_PER_DAY / _HALO_PERIOD_DAYS
    harmonics = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], 1)
    offset = harmonics @ _HALO_COEFFICIENTS * 1000.0 * (distance / AU)
    return offset[:, :1] * x + offset[:, 1:2] * y + offset[:, 2:] * np.cross(x, y)


def moon_position(moon: Body, et: np.ndarray) -> np.ndarray:
    """Return a moon's position relative to its planet [km, ICRF], shape (n, 3), at TDB s past J2000."""
    days = np.asarray(et) / SECONDS_PER_DAY
    centuries = days / 36525.0
    angles = {name: np.deg2rad(a + b * centuries) for name, (a, b) in NUTATION_ANGLES.items() if name in moon.periodic}
    ra = moon.pole_ra[0] + moon.pole_ra[1] * centuries
    dec = moon.pole_dec[0] + moon.pole_dec[1] * centuries
    meridian = moon.meridian[0] + moon.meridian[1] * days
    for name, (ra_amplitude, dec_amplitude, meridian_amplitude) in moon.periodic.items():
        ra = ra + ra_amplitude * np.sin(angles[name])
        dec = dec + dec_amplitude * np.cos(angles[name])
        meridian = meridian + meridian_amplitude * np.sin(angles[name])
    ra, dec, meridian = np.deg2rad(ra), np.deg2rad(dec), np.deg2rad(meridian)
    node = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)], axis=1)
    beyond = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)], axis=1)
    to_planet = np.cos(meridian)[:, None] * node + np.sin(meridian)[:, None] * beyond
    return -moon.orbit_radius * to_planet


def _planet_offset_function(moons: list[Body], planet_gm: float) -> PositionFunction:
    """Return the function giving the planet's position relative to the barycentre of planet and moons [km]."""
    total = planet_gm + sum(moon.gm for moon in moons)

    def offset(et: np.ndarray) -> np.ndarray:
        return -sum((moon.gm / total) * moon_position(moon, et) for moon in moons)

    return offset


def _barycentric(name: str, et: np.ndarray) -> np.ndarray:
    """Return the barycentric position of a body of astropy's built-in ephemeris [km, ICRF], shape (n, 3)."""
    from astropy.coordinates import get_body_barycentric
    from astropy.time import Time

    days = np.asarray(et) / SECONDS_PER_DAY
    whole = np.floor(days)
    time = Time(2451545.0 + whole, days - whole, format="jd", scale="tdb")
    return get_body_barycentric(name, time, ephemeris="builtin").xyz.to_value("km").T


def _write_spk(
    path: Path, segments: list[tuple[int, int, PositionFunction, float]], span: tuple[float, float], degree: int = 13
) -> None:
    """Write Chebyshev segments (body, centre, position function, longest interval in days) to one SPK file."""
    path.unlink(missing_ok=True)
    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    transform = np.linalg.inv(np.polynomial.chebyshev.chebvander(nodes, degree))
    handle = spice.spkopn(str(path), path.stem, 0)
    try:
        for body, centre, position, longest in segments:
            count = int(np.ceil((span[1] - span[0]) / (longest * SECONDS_PER_DAY)))
            interval = (span[1] - span[0]) / count
            middles = span[0] + (np.arange(count) + 0.5) * interval
            epochs = (middles[:, None] + 0.5 * interval * nodes).ravel()
            positions = position(epochs).reshape(count, degree + 1, 3)
            coefficients = np.einsum("kn,mnx->mxk", transform, positions)
            spice.spkw02(
                handle,
                body,
                centre,
                "J2000",
                *span,
                f"body {body}",
                interval,
                count,
                degree,
                coefficients.ravel(),
                span[0],
            )
    finally:
        spice.spkcls(handle)
