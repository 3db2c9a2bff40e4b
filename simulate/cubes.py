"""Cubes of the simulated scene without ramps: quick, with a truth as plain as can be, for tests and benchmarks.

A cube has the layout of a stage-3 `_s3d.fits` of one MRS band from `jwst` 3.0.0 (SCI, ERR, DQ, WMAP, WCS-TABLE, ASDF),
'ifualign' orientation. Each spaxel holds the scene's radiance, through the PSF, at the spaxel's centre; wavelengths are
barycentric. Spaxels outside the IFU's footprint are NaN with DQ 513 (DO_NOT_USE | NON_SCIENCE).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simulate import pointing
from simulate.mrs_optics import BAND_LIMITS, CHANNELS_OF_DETECTOR
from simulate.scene import Scene

# Field of view along and across the slices, spaxel [arcsec] and wavelength step [um] of the cubes of each channel (JDox
# 'MIRI Medium Resolution Spectroscopy' and 'JWST cube_build': defaults of the cubepar reference file).
FIELDS = {
    "1": (3.2, 3.7, 0.13, 0.0008),
    "2": (4.0, 4.8, 0.17, 0.0013),
    "3": (5.2, 6.2, 0.20, 0.0025),
    "4": (6.6, 7.7, 0.35, 0.0060),
}
_GROUPS = 20
_OUTSIDE = 513
_BLANK_BORDER = 1  # spaxels round the footprint


def simulate_cube(
    scene: Scene,
    utc: str,
    path: str | Path,
    channel: str = "1",
    band: str = "SHORT",
    *,
    shape: tuple[int, int] | None = None,
    spaxel_arcsec: float | None = None,
    n_wave: int | None = None,
    offset: tuple[float, float] = (0.0, 0.0),
    rotation_deg: float = 0.0,
    pointing_error: tuple[float, float] = (0.0, 0.0),
    noise: float | None = None,
    seed: int = 0,
    dither: int = 1,
    dithers: int | None = None,
) -> Path:
    """Write the cube of one MRS band.

    Parameters
    ----------
    scene : Scene
        The truth.
    utc : str
        Time of mid-exposure.
    path : Path
        The file, `..._s3d.fits`; it appears whole or not at all.
    channel, band : str
        '1' to '4'; 'SHORT', 'MEDIUM' or 'LONG'.
    shape : (rows, columns), optional
        Spaxels of the cube; the IFU's footprint then fills all but the outermost. By default the real field size.
    spaxel_arcsec : float, optional
        Spaxel size; by default that of the channel.
    n_wave : int, optional
        Number of wavelengths, spread over the band; by default the channel's own step.
    offset : (east, north)
        Of the field's centre from the target's centre [arcsec on the sky].
    rotation_deg : float
        Position angle of the cube's y axis [deg, north through east].
    pointing_error : (east, north)
        By how much the header reads too high [arcsec on the sky; in RA divided by cos Dec].
    noise : float, optional
        Signal-to-noise ratio at the scene's `amplitude`; noise grows with the square root of the brightness, from a
        floor on. By default there is none, and ERR is that of a ratio of 1000.
    seed : int
        Of the noise.
    dither, dithers : int
        Number of this cube in the dither pattern, and of dithers (by default as many as have been reached).

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If the band does not exist.
    """
    if channel not in FIELDS or (int(channel), band.upper()) not in BAND_LIMITS:
        raise ValueError(f"no MRS band {channel}-{band}: channels 1 to 4, SHORT, MEDIUM or LONG")
    along, across, default_spaxel, step = FIELDS[channel]
    spaxel = default_spaxel if spaxel_arcsec is None else spaxel_arcsec
    low, high = BAND_LIMITS[int(channel), band.upper()]
    count = n_wave or int(np.ceil((high - low) / step))
    step = step if n_wave is None else (high - low) / count
    wavelength = low + (np.arange(count) + 0.5) * step

    glance = scene.snapshot(utc)
    centre = pointing.offset_position(glance.ra, glance.dec, *offset)
    east, north, footprint = _spaxel_grid(shape, spaxel, (along, across), rotation_deg)
    reach = float(np.hypot(east, north).max()) + spaxel
    observed = wavelength * (1 + glance.velosys / 1000 / pointing.SPEED_OF_LIGHT)
    view = scene.snapshot(glance.et, wavelength_range=(observed[0], observed[-1]), field=(*centre, reach))
    ra, dec = _positions(centre, east, north)
    data = view.radiance(ra, dec, wavelength[:, None, None], frame="barycentric")
    ratio = 1000.0 if noise is None else noise
    error = np.sqrt(scene.amplitude * (np.abs(data) + 0.02 * scene.amplitude)) / ratio
    if noise is not None:
        data = data + error * np.random.default_rng(seed).standard_normal(data.shape)
    data[:, ~footprint] = np.nan
    error[:, ~footprint] = np.nan

    header_centre = pointing.misread(*centre, *pointing_error)
    metadata = _metadata(scene, utc, channel, band.upper(), header_centre, rotation_deg, dither, dithers or dither)
    metadata |= _cube_metadata(header_centre, data.shape, spaxel, wavelength[0], step, rotation_deg)
    metadata["meta.filename"] = Path(path).name
    _write(Path(path), data, error, footprint, wavelength, metadata)
    return Path(path)


def _spaxel_grid(
    shape: tuple[int, int] | None, spaxel: float, field: tuple[float, float], rotation: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return offsets of the spaxels' centres from the field's centre (east, north) [arcsec], and the footprint."""
    if shape is None:
        columns, rows = (2 * (int(np.ceil(side / 2 / spaxel)) + _BLANK_BORDER) + 1 for side in field)
        half_width, half_height = (side / 2 for side in field)
    else:
        rows, columns = shape
        half_width, half_height = ((n / 2 - _BLANK_BORDER) * spaxel for n in (columns, rows))
    y, x = (np.indices((rows, columns)) - np.array([(rows - 1) / 2, (columns - 1) / 2])[:, None, None]) * spaxel
    footprint = (np.abs(x) < half_width) & (np.abs(y) < half_height)
    turn = np.deg2rad(rotation)
    return -x * np.cos(turn) + y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn), footprint


def _positions(centre: tuple[float, float], east: np.ndarray, north: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return RA in [0, 360) and Dec [deg] of tangent-plane offsets [arcsec] from a position (inverse of RA---TAN)."""
    ra, dec = np.deg2rad(centre)
    x, y = east * pointing.ARCSEC, north * pointing.ARCSEC
    projected = np.cos(dec) - y * np.sin(dec)
    right_ascension = ra + np.arctan2(x, projected)
    declination = np.arctan2(np.sin(dec) + y * np.cos(dec), np.hypot(x, projected))
    return np.rad2deg(right_ascension) % 360, np.rad2deg(declination)


def _metadata(
    scene: Scene,
    utc: str,
    channel: str,
    band: str,
    header_centre: tuple[float, float],
    rotation: float,
    dither: int,
    dithers: int,
) -> dict[str, object]:
    """Return what the header says of the exposure, by its place in the data model: as the ramps of such an exposure."""
    from astropy.time import Time, TimeDelta

    from simulate.headers import Ephemeris, ExposurePointing, exposure_metadata
    from simulate.kernels import furnish
    from simulate.mrs_detector import FRAME_TIME
    from simulate.mrs_plan import MODE, MrsSettings
    from simulate.plan import Exposure

    view = scene.snapshot(utc)
    with furnish(scene.kernels):
        ephemeris = Ephemeris.at(view.et)
    detector = next(name for name, channels in CHANNELS_OF_DETECTOR.items() if int(channel) in channels)
    start = Time(view.utc, scale="utc") - TimeDelta(_GROUPS * FRAME_TIME / 2, format="sec")
    settings = MrsSettings(target=scene.body.name, start=start.isot, dithers=dithers, groups=_GROUPS)
    exposure = Exposure("science", detector, (band,), dither, 0.0, "02101", dither)
    aberration = pointing.velocity_aberration(MODE.aperture, view.ra, view.dec, ephemeris.velocity)
    # as in real cubes, the y axis points against the y axis of the aperture, which lies V3I_YANG east of V3
    roll = (rotation + 180.0 - MODE.aperture.v3_ideal_y_angle) % 360
    where = ExposurePointing(*header_centre, roll, view.ra, view.dec, 0.0, 0.0, aberration, view.velosys)
    metadata = exposure_metadata(settings, exposure, where, ephemeris, dithers)
    detector_only = ("v2_ref", "v3_ref", "vparity", "v3yangle", "ra_ref", "dec_ref", "roll_ref")
    metadata = {place: v for place, v in metadata.items() if place.rpartition(".")[2] not in detector_only}
    return metadata | {"meta.instrument.channel": channel}


def _cube_metadata(
    centre: tuple[float, float],
    shape: tuple[int, ...],
    spaxel: float,
    first_wavelength: float,
    step: float,
    rotation: float,
) -> dict[str, object]:
    """Return what the header says of the cube, by its place in the data model."""
    turn = np.deg2rad(rotation)
    corners = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]) * [shape[2] * spaxel, shape[1] * spaxel]
    x, y = corners.T
    outline = _positions(centre, -x * np.cos(turn) + y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn))
    values = {
        "meta.bunit_data": "MJy/sr",
        "meta.bunit_err": "MJy/sr",
        "meta.photometry.pixelarea_arcsecsq": spaxel**2,
        "meta.photometry.pixelarea_steradians": (spaxel * pointing.ARCSEC) ** 2,
        "meta.ifu.flux_extension": "SCI",
        "meta.ifu.error_extension": "ERR",
        "meta.ifu.error_type": "ERR",
        "meta.ifu.dq_extension": "DQ",
        "meta.ifu.weighting": "drizzle",
        "meta.wcsinfo.wcsaxes": 3,
        "meta.wcsinfo.specsys": "BARYCENT",
        "meta.wcsinfo.s_region": "POLYGON ICRS  "
        + " ".join(f"{v:.9f}" for pair in zip(*outline, strict=True) for v in pair),
    }
    axes = (
        ("RA---TAN", "deg", (shape[2] + 1) / 2, centre[0], spaxel / 3600),
        ("DEC--TAN", "deg", (shape[1] + 1) / 2, centre[1], spaxel / 3600),
        ("WAVE", "um", 1.0, first_wavelength, step),
    )
    matrix = [[-np.cos(turn), np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0], [0.0, 0.0, 1.0]]
    for i, axis in enumerate(axes, start=1):
        for name, value in zip(("ctype", "cunit", "crpix", "crval", "cdelt"), axis, strict=True):
            values[f"meta.wcsinfo.{name}{i}"] = value
        values |= {f"meta.wcsinfo.pc{i}_{j}": float(matrix[i - 1][j - 1]) for j in (1, 2, 3)}
    steps = ("assign_wcs", "assign_mtwcs", "flat_field", "photom", "ramp_fit", "cube_build")
    return values | {f"meta.cal_step.{name}": "COMPLETE" for name in steps}


def _write(
    path: Path,
    data: np.ndarray,
    error: np.ndarray,
    footprint: np.ndarray,
    wavelength: np.ndarray,
    metadata: dict[str, object],
) -> None:
    from jwst.assign_wcs.pointing import create_fitswcs
    from stdatamodels.jwst.datamodels import IFUCubeModel

    from files import written_whole

    dq = np.where(footprint, 0, _OUTSIDE).astype(np.uint32)
    table = np.array([(wavelength[:, None],)], dtype=[("wavelength", "<f4", (wavelength.size, 1))])
    with IFUCubeModel(
        data=data.astype(np.float32),
        err=error.astype(np.float32),
        dq=np.broadcast_to(dq, data.shape).copy(),
        weightmap=np.broadcast_to(np.where(footprint, 8.0, 0.0).astype(np.float32), data.shape).copy(),
        wavetable=table,
    ) as model:
        for place, value in metadata.items():
            model[place] = value
        model.meta.wcsinfo.mt_avra, model.meta.wcsinfo.mt_avdec = model.meta.wcsinfo.mt_ra, model.meta.wcsinfo.mt_dec
        model.meta.wcs = create_fitswcs(model)
        model.meta.wcs.bounding_box = tuple((0, n - 1) for n in reversed(data.shape))
        with written_whole(path) as temporary:
            model.save(str(temporary))
