"""Solar-system bodies of the simulated observatory: shapes, rotation, moon orbits and rings.

Radii, poles and prime meridians are those of the IAU Working Group on Cartographic Coordinates and Rotational
Elements 2015 (Archinal et al. 2018, Celest. Mech. Dyn. Astron. 130, 22): angles in degrees, T in Julian centuries
and d in days of TDB past J2000. Periodic terms are kept as (sine amplitude of right ascension, cosine amplitude of
declination, sine amplitude of the prime meridian) per named angle.

The moons in the table keep one face to their planet: the IAU prime meridian is the mean sub-planet meridian. A circular
orbit in the moon's equator, with the planet above longitude 0, therefore needs the orbit radius alone and is right to
the eccentricity (Titan 3 degrees at most, the others 1 degree: 10 arcsec on the sky).

Masses are JPL's (ssd.jpl.nasa.gov/sats/phys_par and astro_par); ring radii and typical normal optical depths follow
Colwell et al. 2009, in 'Saturn from Cassini-Huygens', chapter 13.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Body:
    """One body: identity, ellipsoid, rotation and orbit.

    Attributes
    ----------
    name : str
        SPICE name in lower case.
    naif_id : int
        NAIF id of the body's centre.
    barycentre : int
        NAIF id of the barycentre of its planetary system.
    radii : tuple of float
        Ellipsoid semi-axes [km]: towards the prime meridian, along the equator, polar.
    pole_ra, pole_dec : tuple of float
        North pole, ICRF [deg], and its rate [deg/century].
    meridian : tuple of float
        Prime meridian W [deg] and its rate [deg/day].
    gm : float
        Gravitational parameter [km^3/s^2].
    periodic : dict
        Periodic terms of the rotation, by name of the angle in `NUTATION_ANGLES` [deg].
    orbit_radius : float
        Radius of a moon's circular orbit round its planet [km]; 0 for a planet.
    """

    name: str
    naif_id: int
    barycentre: int
    radii: tuple[float, float, float]
    pole_ra: tuple[float, float]
    pole_dec: tuple[float, float]
    meridian: tuple[float, float]
    gm: float
    periodic: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    orbit_radius: float = 0.0


@dataclass(frozen=True)
class Ring:
    """A ring region: inner and outer radius [km], normal optical depth, brightness in units of the brightest ring."""

    name: str
    inner: float
    outer: float
    optical_depth: float
    brightness: float


# Arguments of the periodic terms: [deg] at J2000 and [deg/century].
NUTATION_ANGLES: dict[str, tuple[float, float]] = {
    "J3": (283.90, 4850.7),
    "J4": (355.80, 1191.3),
    "J5": (119.90, 262.1),
    "J6": (229.80, 64.3),
    "J7": (352.25, 2382.6),
    "J8": (113.35, 6070.0),
    "Ja": (99.360714, 4850.4046),
    "Jb": (175.895369, 1191.9605),
    "Jc": (300.323162, 262.5475),
    "Jd": (114.012305, 6070.2476),
    "Je": (49.511251, 64.3000),
    "S4": (300.00, -7225.9),
    "S5": (316.45, 506.2),
    "S6": (345.20, -1016.3),
    "U12": (316.41, 2863.96),
    "U13": (304.01, -51.94),
    "U14": (308.71, -93.17),
    "U15": (340.82, -75.32),
    "U16": (259.14, -504.81),
    "N": (357.85, 52.316),
    **{"N7" if k == 1 else f"{k}N7": (177.85 * k, 52.316 * k) for k in range(1, 10)},
}
BARYCENTRE_OF_ANGLE: dict[str, int] = {"J": 5, "S": 6, "U": 7, "N": 8}

_TABLE = (
    Body(
        "jupiter", 599, 5, (71492.0, 71492.0, 66854.0), (268.056595, -0.006499), (64.495303, 0.002413),
        (284.95, 870.5360000), 126686531.9,
        {"Ja": (0.000117, 0.000050, 0.0), "Jb": (0.000938, 0.000404, 0.0), "Jc": (0.001432, 0.000617, 0.0),
         "Jd": (0.000030, -0.000013, 0.0), "Je": (0.002150, 0.000926, 0.0)},
    ),
    Body("saturn", 699, 6, (60268.0, 60268.0, 54364.0), (40.589, -0.036), (83.537, -0.004), (38.90, 810.7939024),
         37931206.2),
    Body("uranus", 799, 7, (25559.0, 25559.0, 24973.0), (257.311, 0.0), (-15.175, 0.0), (203.81, -501.1600928),
         5793951.3),
    Body("neptune", 899, 8, (24764.0, 24764.0, 24341.0), (299.36, 0.0), (43.46, 0.0), (249.978, 541.1397757),
         6835099.5, {"N": (0.70, -0.51, -0.48)}),
    Body("io", 501, 5, (1829.4, 1819.4, 1815.7), (268.05, -0.009), (64.50, 0.003), (200.39, 203.4889538), 5959.9,
         {"J3": (0.094, 0.040, -0.085), "J4": (0.024, 0.011, -0.022)}, 421800.0),
    Body("europa", 502, 5, (1562.6, 1560.3, 1559.5), (268.08, -0.009), (64.51, 0.003), (36.022, 101.3747235), 3202.7,
         {"J4": (1.086, 0.468, -0.980), "J5": (0.060, 0.026, -0.054), "J6": (0.015, 0.007, -0.014),
          "J7": (0.009, 0.002, -0.008)}, 671100.0),
    Body("ganymede", 503, 5, (2631.2, 2631.2, 2631.2), (268.20, -0.009), (64.57, 0.003), (44.064, 50.3176081), 9887.8,
         {"J4": (-0.037, -0.016, 0.033), "J5": (0.431, 0.186, -0.389), "J6": (0.091, 0.039, -0.082)}, 1070400.0),
    Body("callisto", 504, 5, (2410.3, 2410.3, 2410.3), (268.72, -0.009), (64.83, 0.003), (259.51, 21.5710715), 7179.3,
         {"J5": (-0.068, -0.029, 0.061), "J6": (0.590, 0.254, -0.533), "J8": (0.010, -0.004, -0.009)}, 1882700.0),
    Body("enceladus", 602, 6, (256.6, 251.4, 248.3), (40.66, -0.036), (83.52, -0.004), (6.32, 262.7318996), 7.2,
         {}, 238040.0),
    Body("tethys", 603, 6, (538.4, 528.3, 526.3), (40.66, -0.036), (83.52, -0.004), (8.95, 190.6979085), 41.2,
         {"S4": (9.66, -1.09, -9.60), "S5": (0.0, 0.0, 2.23)}, 294670.0),
    Body("dione", 604, 6, (563.4, 561.3, 559.6), (40.66, -0.036), (83.52, -0.004), (357.6, 131.5349316), 73.1,
         {}, 377420.0),
    Body("rhea", 605, 6, (765.0, 763.1, 762.4), (40.38, -0.036), (83.55, -0.004), (235.16, 79.6900478), 153.9,
         {"S6": (3.10, -0.35, -3.08)}, 527070.0),
    Body("titan", 606, 6, (2575.15, 2574.78, 2574.47), (39.4827, 0.0), (83.4279, 0.0), (186.5855, 22.5769768), 8978.1,
         {}, 1221870.0),
    Body("ariel", 701, 7, (581.1, 577.9, 577.7), (257.43, 0.0), (-15.10, 0.0), (156.22, -142.8356681), 86.4,
         {"U12": (0.0, 0.0, 0.05), "U13": (0.29, 0.28, 0.08)}, 190930.0),
    Body("umbriel", 702, 7, (584.7, 584.7, 584.7), (257.43, 0.0), (-15.10, 0.0), (108.05, -86.8688923), 81.5,
         {"U12": (0.0, 0.0, -0.09), "U14": (0.21, 0.20, 0.06)}, 266000.0),
    Body("titania", 703, 7, (788.9, 788.9, 788.9), (257.43, 0.0), (-15.10, 0.0), (77.74, -41.3514316), 228.2,
         {"U15": (0.29, 0.28, 0.08)}, 436300.0),
    Body("oberon", 704, 7, (761.4, 761.4, 761.4), (257.43, 0.0), (-15.10, 0.0), (6.77, -26.7394932), 192.4,
         {"U16": (0.16, 0.16, 0.04)}, 583500.0),
    Body("triton", 801, 8, (1352.6, 1352.6, 1352.6), (299.36, 0.0), (41.17, 0.0), (296.53, -61.2572637), 1428.5,
         {"N7": (-32.35, 22.55, 22.25), "2N7": (-6.28, 2.10, 6.73), "3N7": (-2.08, 0.55, 2.05),
          "4N7": (-0.74, 0.16, 0.74), "5N7": (-0.28, 0.05, 0.28), "6N7": (-0.11, 0.02, 0.11),
          "7N7": (-0.07, 0.01, 0.05), "8N7": (-0.02, 0.0, 0.02), "9N7": (-0.01, 0.0, 0.01)}, 354760.0),
)  # fmt: skip
BODIES: dict[str, Body] = {body.name: body for body in _TABLE}

SATURN_RINGS = (
    Ring("C", 74658.0, 91975.0, 0.10, 0.25),
    Ring("B", 91975.0, 117507.0, 1.80, 1.00),
    Ring("Cassini division", 117507.0, 122340.0, 0.10, 0.25),
    Ring("A", 122340.0, 136780.0, 0.50, 0.70),
)
RINGS: dict[str, tuple[Ring, ...]] = {"saturn": SATURN_RINGS}


def get_body(name: str) -> Body:
    """Return the body of that name, in upper or lower case.

    Raises
    ------
    ValueError
        If the simulated observatory does not know the body; the message lists those it knows.
    """
    body = BODIES.get(name.strip().lower())
    if body is None:
        raise ValueError(f"unknown target {name!r}; the simulated observatory has {', '.join(BODIES)}")
    return body


def moons_of(planet: Body) -> list[Body]:
    """Return the moons of a planet that are in the table."""
    return [body for body in _TABLE if body.barycentre == planet.barycentre and body.orbit_radius > 0]
