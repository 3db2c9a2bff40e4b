"""Headers of the simulated exposures: all that a real level-1b file of a moving-target IFU exposure has.

Values are given by their place in the `jwst` data model ('meta.target.ra'), which knows the FITS keyword. Units are
those of the keyword dictionary: barycentric positions in km and km/s, geocentric ones in m and m/s, VELOSYS in m/s.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.time import Time, TimeDelta

from simulate import pointing
from simulate.plan import OBSERVATION, PROGRAM, VISIT, Exposure, Settings

SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True)
class Ephemeris:
    """Where JWST is, from the kernels, and what follows towards the target.

    Attributes
    ----------
    position, velocity
        Barycentric [km, km/s, J2000], shape (3,).
    geocentric_position, geocentric_velocity
        [km, km/s].
    heliocentric_position
        [km].
    """

    position: np.ndarray
    velocity: np.ndarray
    geocentric_position: np.ndarray
    geocentric_velocity: np.ndarray
    heliocentric_position: np.ndarray

    @classmethod
    def at(cls, et: float) -> "Ephemeris":
        """JWST at `et` [s TDB past J2000]; kernels must be loaded."""
        import spiceypy as spice

        def state(centre: str) -> np.ndarray:
            return np.array(spice.spkezr("JWST", et, "J2000", "NONE", centre)[0])

        barycentric, geocentric = state("SSB"), state("EARTH")
        return cls(barycentric[:3], barycentric[3:], geocentric[:3], geocentric[3:], state("SUN")[:3])


@dataclass(frozen=True)
class ExposurePointing:
    """Where an exposure looked, as the header says it; see `simulate.exposure`.

    Attributes
    ----------
    ra_ref, dec_ref
        The aperture's reference point [deg], pointing error included.
    roll_ref
        Position angle of V3 there [deg].
    target_ra, target_dec
        The target's centre at mid-exposure [deg]; no error.
    x_offset, y_offset
        Dither [arcsec, ideal frame].
    aberration
        Velocity aberration applied.
    velosys
        Velocity of JWST away from the target, relative to the barycentre [m/s].
    """

    ra_ref: float
    dec_ref: float
    roll_ref: float
    target_ra: float
    target_dec: float
    x_offset: float
    y_offset: float
    aberration: pointing.Aberration
    velosys: float


def exposure_times(settings: Settings, exposure: Exposure) -> tuple[Time, Time, Time]:
    """Start, middle and end of an exposure (UTC)."""
    start = Time(settings.start, scale="utc") + TimeDelta(exposure.delay, format="sec")
    duration = TimeDelta(settings.groups * settings.mode.frame_time, format="sec")
    return start, start + duration / 2, start + duration


def exposure_metadata(
    settings: Settings, exposure: Exposure, where: ExposurePointing, ephemeris: Ephemeris, total_exposures: int
) -> dict[str, Any]:
    """Every header value of an exposure, by its place in the data model."""
    times = exposure_times(settings, exposure)
    return {
        "meta.telescope": "JWST",
        "meta.origin": "STSCI",
        "meta.time_sys": "UTC",
        "meta.time_unit": "s",
        "meta.filename": f"{exposure.name}_uncal.fits",
        "meta.data_processing_software_version": "2025_4",
        "meta.prd_software_version": "PRDOPSSOC-067",
        "meta.oss_software_version": "8.4.14",
        "meta.guide_star_catalog_version": "GSC2432",
        "meta.hga_move": False,
        "meta.pwfseet": times[0].mjd - 1.3,
        "meta.nwfsest": 0.0,
        "meta.compress": False,
        "meta.program.title": "Simulated observation",
        "meta.program.pi_name": "Simulated observatory",
        "meta.program.category": "GTO",
        "meta.program.sub_category": "NONE",
        "meta.program.science_category": "Solar System",
        "meta.program.continuation_id": 0,
        **_observation(settings, exposure, times, total_exposures),
        **_target(settings, exposure, where),
        **_exposure(settings, exposure),
        **_times(times),
        **_dither(settings, exposure, where),
        **_ephemeris(ephemeris, times[1]),
        **_time_corrections(ephemeris, where, times),
        **_pointing(settings.mode.aperture, where),
        **_guide_star(where, times),
        **settings.instrument_metadata(exposure),
    }


def _observation(settings: Settings, exposure: Exposure, times: tuple, total_exposures: int) -> dict[str, Any]:
    group, sequence, activity = exposure.activity[:2], exposure.activity[2], exposure.activity[3:]
    visit = f"{PROGRAM}{exposure.observation}{VISIT}"
    name, label = settings.target.strip().capitalize(), settings.mode.label
    values = {
        "date": times[0].isot[:10],
        "time": times[0].isot[11:],
        "date_beg": times[0].isot,
        "date_end": times[2].isot,
        "obs_id": f"V{visit}P0000000{group}{sequence}{activity}",
        "visit_id": visit,
        "program_number": PROGRAM,
        "observation_number": exposure.observation,
        "visit_number": VISIT,
        "visit_group": group,
        "sequence_id": sequence,
        "activity_id": activity,
        "exposure_number": str(exposure.number),
        "bkgdtarg": exposure.role == "background",
        "template": settings.mode.template,
        "observation_label": f"{name} {label}" if exposure.observation == OBSERVATION else f"{name} background {label}",
        "observation_folder": f"{name} Observations",
    }
    visit_values = {
        "engineering_quality": "OK",
        "engdb_pointing_quality": "CALCULATED_TRACK_TR_202111",
        "type": "PRIME_TARGETED_MOVING",
        "start_time": (times[0] - TimeDelta(2400, format="sec")).iso,
        "status": "SUCCESSFUL",
        "total_exposures": total_exposures,
        "internal_target": False,
        "too_visit": False,
        "tsovisit": False,
        "exp_only": False,
        "crowded_field": False,
    }
    return _under("meta.observation", values) | _under("meta.visit", visit_values)


def _target(settings: Settings, exposure: Exposure, where: ExposurePointing) -> dict[str, Any]:
    name = settings.target.strip().upper()
    background = exposure.role == "background"
    values = {
        "proposer_name": f"{name}-BACKGROUND" if background else name,
        "catalog_name": f"{name}-BACKGROUND" if background else name,
        "type": "MOVING",
        "category": "Solar System",
        "description": f"[{name.capitalize()}]",
        "ra": where.target_ra,
        "dec": where.target_dec,
        "ra_uncertainty": 0.1,
        "dec_uncertainty": 0.1,
        "source_type_apt": "EXTENDED",
    }
    return _under("meta.target", values)


def _exposure(settings: Settings, exposure: Exposure) -> dict[str, Any]:
    """What the instrument was asked to do, as far as it is the same for all."""
    ramp = settings.groups * settings.mode.frame_time
    values = {
        "count": exposure.number,
        "prime_parallel": "PRIME",
        "type": settings.mode.exposure_type,
        "hybrid_full_frame": False,
        "segment_number": 1,
        "segment_total": 1,
        "nints": 1,
        "integration_start": 1,
        "integration_end": 1,
        "ngroups": settings.groups,
        "nframes": 1,
        "frame_divisor": 1,
        "groupgap": 0,
        "drop_frames1": 0,
        "drop_frames3": 0,
        "nsamples": 1,
        "sample_time": 10.0,
        "frame_time": settings.mode.frame_time,
        "group_time": settings.mode.frame_time,
        "integration_time": ramp,
        "exposure_time": ramp,
        "effective_exposure_time": ramp,
        "measurement_time": ramp,
        "duration": ramp,
        "elapsed_exposure_time": ramp,
        "nresets_at_start": 1,
        "zero_frame": False,
        "data_problem": False,
        "clock_adjust_rate": -0.095,
        "gain_factor": 1.0,
        "imprint": exposure.role == "leakcal",
    }
    aperture = settings.mode.aperture.name
    return (
        _under("meta.instrument", {"name": settings.mode.instrument, "detector": exposure.detector})
        | _under("meta.exposure", values)
        | _under("meta.subarray", {"name": "FULL", "xstart": 1, "ystart": 1})
        | {"meta.aperture.name": aperture, "meta.aperture.pps_name": aperture}
    )


def _times(times: tuple[Time, Time, Time]) -> dict[str, Any]:
    values = {"osf_file": f"{times[0].strftime('%Y%j')}T000000000_001_osf.xml"}
    for name, time in zip(("start", "mid", "end"), times, strict=True):
        values[f"{name}_time"] = values[f"{name}_time_mjd"] = time.mjd
        values[f"{name}_time_tdb"] = time.tdb.mjd
    return _under("meta.exposure", values)


def _dither(settings: Settings, exposure: Exposure, where: ExposurePointing) -> dict[str, Any]:
    points = settings.dithers if exposure.role == "science" else exposure.dither
    values = {
        "position_number": exposure.dither,
        "pattern_start": 1,
        "total_points": max(points, exposure.dither),
        "x_offset": where.x_offset,
        "y_offset": where.y_offset,
        "dithered_ra": where.ra_ref,
        "dithered_dec": where.dec_ref,
    }
    return _under("meta.dither", values)


def _ephemeris(ephemeris: Ephemeris, middle: Time) -> dict[str, Any]:
    values: dict[str, Any] = {"reference_frame": "EME2000", "type": "Definitive", "time": middle.mjd}
    for index, axis in enumerate("xyz"):
        values[f"spatial_{axis}_bary"] = float(ephemeris.position[index])
        values[f"velocity_{axis}_bary"] = float(ephemeris.velocity[index])
        values[f"spatial_{axis}_geo"] = float(1000 * ephemeris.geocentric_position[index])
        values[f"velocity_{axis}_geo"] = float(1000 * ephemeris.geocentric_velocity[index])
    return _under("meta.ephemeris", values)


def _time_corrections(ephemeris: Ephemeris, where: ExposurePointing, times: tuple) -> dict[str, Any]:
    """Times at which the light seen would have passed the barycentre and the Sun, from the position along the line."""
    ra, dec = np.deg2rad([where.target_ra, where.target_dec])
    direction = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    values = {}
    for name, position in (("barycentric", ephemeris.position), ("heliocentric", ephemeris.heliocentric_position)):
        delay = float(position @ direction / pointing.SPEED_OF_LIGHT)
        values[f"{name}_correction"] = delay
        for moment, time in zip(("start", "mid", "end"), times, strict=True):
            values[f"{name}_exp{moment}"] = time.mjd + delay / SECONDS_PER_DAY
    return _under("meta.time", values)


def _pointing(aperture: pointing.Aperture, where: ExposurePointing) -> dict[str, Any]:
    attitude = aperture.attitude(where.ra_ref, where.dec_ref, where.roll_ref)
    ra_v1, dec_v1 = (float(value) for value in pointing.v2v3_to_sky(0.0, 0.0, attitude))
    values = {
        "wcsaxes": 3,
        "v2_ref": aperture.v2_ref,
        "v3_ref": aperture.v3_ref,
        "vparity": aperture.parity,
        "v3yangle": aperture.v3_ideal_y_angle,
        "ra_ref": where.ra_ref,
        "dec_ref": where.dec_ref,
        "roll_ref": where.roll_ref,
        "velosys": where.velosys,
        "mt_ra": where.target_ra,
        "mt_dec": where.target_dec,
    }
    return _under("meta.wcsinfo", values) | {
        "meta.coordinates.reference_frame": "ICRS",
        "meta.aperture.position_angle": (where.roll_ref + aperture.v3_ideal_y_angle) % 360,
        "meta.pointing.ra_v1": ra_v1,
        "meta.pointing.dec_v1": dec_v1,
        "meta.pointing.pa_v3": pointing.roll_at(attitude, 0.0, 0.0),
        "meta.velocity_aberration.scale_factor": where.aberration.scale,
        "meta.velocity_aberration.va_ra_ref": where.aberration.apparent_ra,
        "meta.velocity_aberration.va_dec_ref": where.aberration.apparent_dec,
        "meta.bunit_data": "DN",
    }


def _guide_star(where: ExposurePointing, times: tuple) -> dict[str, Any]:
    ra, dec = pointing.offset_position(where.ra_ref, where.dec_ref, -290.0, 180.0)
    values = {
        "gs_order": 1,
        "gs_start_time": (times[0] - TimeDelta(900, format="sec")).iso,
        "gs_stop_time": (times[0] - TimeDelta(240, format="sec")).iso,
        "gs_id": "SC5Y011891",
        "gs_ra": ra,
        "gs_dec": dec,
        "gs_ura": 4.7e-4,
        "gs_udec": 2.0e-4,
        "gs_mag": 13.8,
        "gs_umag": 0.015,
        "gs_v3_pa_science": where.roll_ref,
        "gs_pcs_mode": "MOVING",
        "gs_function_start_time": (times[0] - TimeDelta(240, format="sec")).iso,
        "gs_function_end_time": times[2].iso,
        "visit_end_time": (times[2] + TimeDelta(600, format="sec")).iso,
    }
    return _under("meta.guidestar", values)


def _under(parent: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{parent}.{name}": value for name, value in values.items()}
