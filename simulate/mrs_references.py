"""The reference files that belong to the simulated MRS exposures, written into a CRDS cache.

Everything the simulated detector does and a reference file can describe is described here by the same arrays. Which
types `jwst` asks for, and the form each must have: stdatamodels' schemas and the CRDS documentation of each type
(https://jwst-pipeline.readthedocs.io).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy import units
from astropy.modeling import models

from simulate import crds_cache, mrs_detector
from simulate.crds_cache import CrdsCache, image, jwst_reference_types, table
from simulate.mrs_calibration import FRINGE_PATH, PIXEL_FLAT_RMS, Calibration
from simulate.mrs_optics import (
    BAND_LIMITS,
    BANDS,
    CHANNELS,
    NUMBER_OF_COLUMNS,
    NUMBER_OF_ROWS,
    Optics,
)
from simulate.mrs_plan import MODE

# Cube sampling of each channel, as in the CRDS cubepar files (Law et al. 2023, AJ 166, 45): spaxel [arcsec], wavelength
# step [um], radii of the regions of influence of the emsm weighting [arcsec, um].
SPAXEL_SIZE = {1: 0.13, 2: 0.17, 3: 0.20, 4: 0.35}
WAVELENGTH_STEP = {1: 0.0008, 2: 0.0013, 3: 0.0025, 4: 0.0060}

DO_NOT_USE, DEAD, HOT, REFERENCE_PIXEL = 2**0, 2**10, 2**11, 2**31
SHAPE = mrs_detector.SHAPE
READOUT = "FASTR1"
FULL_FRAME = {
    "SUBARRAY": "FULL",
    "SUBSTRT1": 1,
    "SUBSTRT2": 1,
    "SUBSIZE1": NUMBER_OF_COLUMNS,
    "SUBSIZE2": NUMBER_OF_ROWS,
    "FASTAXIS": 1,
    "SLOWAXIS": 2,
}
EXPOSURE_TYPE = MODE.exposure_type


def write_reference_files(
    root: str | Path, settings: Iterable[tuple[Optics, Calibration]], *, groups: int
) -> CrdsCache:
    """Write a complete CRDS cache for the given settings.

    Parameters
    ----------
    root
        Directory of the cache (CRDS_PATH).
    settings
        Optics and calibration of each detector and grating setting.
    groups
        Number of groups of the longest ramp to be reduced.
    """
    cache = CrdsCache(root, "MIRI")
    detectors: set[str] = set()
    for optics, calibration in settings:
        if not detectors:
            _add_wavelength_range(cache, optics)
        if optics.detector not in detectors:
            detectors.add(optics.detector)
            _add_detector_files(cache, optics.detector, groups)
            _add_fringe_frequencies(cache, optics)
        _add_geometry_files(cache, optics)
        _add_calibration_files(cache, optics, calibration)
    _add_cube_parameters(cache)
    _add_extraction_files(cache)
    _add_correction_tables(cache)
    cache.finish(jwst_reference_types())
    return cache


def _no_flags(*leading: int):
    # Models without a DQ extension make one of the wrong rank up.
    return image("DQ", np.zeros((*leading, *SHAPE), dtype=np.uint32))


def _add_detector_files(cache: CrdsCache, detector: str, groups: int) -> None:
    by_detector = {crds_cache.DETECTOR: detector}
    by_subarray = by_detector | {crds_cache.SUBARRAY: "FULL"}
    by_readout = by_subarray | {crds_cache.READOUT: READOUT}
    header = {"DETECTOR": detector, **FULL_FRAME}
    readout = header | {"READPATT": READOUT}
    ones = np.ones(SHAPE, dtype=np.float32)
    cache.add_fits("mask", by_subarray, _mask_extensions(detector), DATAMODL="MaskModel", **header)
    cache.add_fits(
        "saturation",
        by_subarray,
        [image("SCI", ones * mrs_detector.SATURATION), _no_flags()],
        DATAMODL="SaturationModel",
        **header,
    )
    transient = mrs_detector.reset_transient().astype(np.float32)
    cache.add_fits(
        "reset",
        by_readout,
        [image("SCI", transient[np.newaxis]), _no_flags()],
        DATAMODL="ResetModel",
        NINTS=1,
        NGROUPS=len(transient),
        **readout,
    )
    # Reference pixels are not bent.
    linear = np.array([0.0, 1.0, 0.0, 0.0])
    coefficients = np.where(
        mrs_detector.is_reference(), linear[:, np.newaxis], np.array(mrs_detector.LINEARITY)[:, None]
    )
    coefficients = np.broadcast_to(coefficients[:, np.newaxis], (linear.size, *SHAPE)).astype(np.float32)
    cache.add_fits(
        "linearity", by_subarray, [image("COEFFS", coefficients), _no_flags()], DATAMODL="LinearityModel", **header
    )
    # `jwst` looks for these column names in small letters.
    skipped = {
        "subarray": ("17A", ["FULL"]),
        "readpatt": ("12A", [READOUT]),
        "group_skip1": ("J", [1]),
        "group_skip": ("J", [4]),
    }
    cache.add_fits("rscd", by_detector, [table("RSCD_GROUP_SKIP", skipped)], DATAMODL="RSCDModel", DETECTOR=detector)
    dark = mrs_detector.dark_ramp(max(groups, 8)).astype(np.float32)
    cache.add_fits(
        "dark",
        by_readout,
        [image("SCI", dark[np.newaxis]), _no_flags(1, 1)],
        DATAMODL="DarkMIRIModel",
        EXP_TYPE="MIR_DARKMRS",
        NGROUPS=len(dark),
        NFRAMES=1,
        GROUPGAP=0,
        **readout,
    )
    # The readnoise file holds the noise of a difference of two reads.
    noise = ones * np.sqrt(2) * mrs_detector.READ_NOISE
    cache.add_fits("readnoise", by_readout, [image("SCI", noise, BUNIT="DN")], DATAMODL="ReadnoiseModel", **readout)
    cache.add_fits("gain", by_subarray, [image("SCI", ones * mrs_detector.GAIN)], DATAMODL="GainModel", **header)


def _mask_extensions(detector: str) -> list:
    defects = mrs_detector.get_defects(detector)
    flags = np.zeros(SHAPE, dtype=np.uint32)
    flags.flat[defects.dead] = DO_NOT_USE | DEAD
    flags.flat[defects.hot] = DO_NOT_USE | HOT
    flags[:, mrs_detector.is_reference()] = REFERENCE_PIXEL
    definitions = {"DO_NOT_USE": DO_NOT_USE, "DEAD": DEAD, "HOT": HOT, "REFERENCE_PIXEL": REFERENCE_PIXEL}
    columns = {
        "BIT": ("J", [flag.bit_length() - 1 for flag in definitions.values()]),
        "VALUE": ("K", list(definitions.values())),
        "NAME": ("40A", list(definitions)),
        "DESCRIPTION": ("80A", [name.replace("_", " ").lower() for name in definitions]),
    }
    return [image("DQ", flags), table("DQ_DEF", columns)]


def _add_geometry_files(cache: CrdsCache, optics: Optics) -> None:
    match = {
        crds_cache.DETECTOR: optics.detector,
        crds_cache.CHANNEL: optics.channel_name,
        crds_cache.BAND: optics.band,
    }
    if optics.files:
        for reference_type in ("distortion", "specwcs", "regions"):
            cache.add_file(reference_type, match, optics.files[reference_type])
        return
    numbers = list(optics.slices)
    slices = list(optics.slices.values())
    bands = [f"{channel}{optics.band}" for channel in optics.channels]
    instrument = {"detector": optics.detector, "channel": optics.channel_name, "band": optics.band}
    exposure = {"exposure": {"type": EXPOSURE_TYPE}}
    distortion = {
        "slices": numbers,
        "alpha_model": [model.alpha for model in slices],
        "beta_model": [models.Const1D(model.beta) for model in slices],
        "x_model": [model.x for model in slices],
        "y_model": [model.y for model in slices],
        "bzero": {"channel_band": bands, "beta_zero": [optics.first_beta[c] for c in optics.channels]},
        "bdel": {"channel_band": bands, "delta_beta": [optics.slice_width[c] for c in optics.channels]},
        "abv2v3_model": {"channel_band": bands, "model": [optics.to_v2v3[c] for c in optics.channels]},
    }
    meta = exposure | {"input_units": units.pix, "output_units": units.arcsec}
    cache.add_asdf("distortion", match, distortion, meta=meta, **instrument)
    specwcs = {"slices": numbers, "model": [model.wavelength for model in slices]}
    meta = exposure | {"input_units": units.pix, "output_units": units.micron}
    cache.add_asdf("specwcs", match, specwcs, meta=meta, **instrument)
    cache.add_asdf("regions", match, {"regions": optics.regions}, meta=exposure, **instrument)


def _add_wavelength_range(cache: CrdsCache, optics: Optics) -> None:
    match = {crds_cache.EXPOSURE_TYPE: EXPOSURE_TYPE}
    if optics.files:
        cache.add_file("wavelengthrange", match, optics.files["wavelengthrange"])
        return
    names = list(optics.wavelength_range)
    tree = {
        "waverange_selector": names,
        "wavelengthrange": [list(optics.wavelength_range[name]) for name in names],
        "channels": names,
    }
    meta = {"exposure": {"type": EXPOSURE_TYPE}, "wavelength_units": units.micron}
    cache.add_asdf("wavelengthrange", match, tree, meta=meta)


def _add_calibration_files(cache: CrdsCache, optics: Optics, calibration: Calibration) -> None:
    by_band = {crds_cache.DETECTOR: optics.detector, crds_cache.BAND: optics.band}
    header = {
        "DETECTOR": optics.detector,
        "CHANNEL": optics.channel_name,
        "BAND": optics.band,
        "EXP_TYPE": EXPOSURE_TYPE,
    }
    lit = np.isfinite(calibration.conversion)
    steradian = (np.pi / 180 / 3600) ** 2
    area = float(np.median(calibration.pixel_area[lit]))
    cache.add_fits(
        "photom",
        by_band,
        [
            image("SCI", calibration.conversion),
            image("DQ", np.where(lit, 0, DO_NOT_USE).astype(np.uint32)),
            image("PIXSIZ", calibration.pixel_area),
        ],
        DATAMODL="MirMrsPhotomModel",
        PHOTMJSR=float(np.median(calibration.conversion[lit])),
        PIXAR_SR=area * steradian,
        PIXAR_A2=area,
        **header,
    )
    cache.add_fits(
        "fringe", by_band, [image("SCI", calibration.fringes), _no_flags()], DATAMODL="FringeModel", **header
    )
    error = np.full(SHAPE, PIXEL_FLAT_RMS / 10, dtype=np.float32)
    cache.add_fits(
        "flat",
        by_band | {crds_cache.READOUT: READOUT, crds_cache.SUBARRAY: "FULL"},
        [image("SCI", calibration.pixel_flat), _no_flags(), image("ERR", error)],
        DATAMODL="FlatModel",
        READPATT=READOUT,
        **header,
        **FULL_FRAME,
    )


def _add_fringe_frequencies(cache: CrdsCache, optics: Optics) -> None:
    slices = list(optics.slices)

    def rows(*values):
        return [values] * len(slices)

    # Both columns of a pair describe one fringe component of `jwst`'s residual-fringe fit; the second is not used here.
    period = 1 / FRINGE_PATH
    columns = {
        "SLICE": ("D", slices),
        "FFREQ": ("2D", rows(period, 0.0)),
        "DFFREQ": ("2D", rows(0.5, 0.0)),
        "MIN_NFRINGES": ("2K", rows(0, 0)),
        "MAX_NFRINGES": ("2K", rows(10, 0)),
        "MIN_SNR": ("2D", rows(10.0, 100.0)),
        "PGRAM_RES": ("2D", rows(0.001, 0.001)),
    }
    amplitude = {"WAVELENGTH": ("D", np.linspace(4.8, 28.5, 30)), "AMPLITUDE": ("D", np.full(30, 0.2))}
    cache.add_fits(
        "fringefreq",
        {crds_cache.DETECTOR: optics.detector},
        [*(table(f"RFC_FREQ_{band}", columns) for band in BANDS), table("MAX_AMP", amplitude)],
        DATAMODL="FringeFreqModel",
        DETECTOR=optics.detector,
        EXP_TYPE=EXPOSURE_TYPE,
    )


def _add_cube_parameters(cache: CrdsCache) -> None:
    pairs = [(channel, band) for channel in CHANNELS for band in BANDS]
    spaxels = np.array([SPAXEL_SIZE[channel] for channel, _ in pairs])
    steps = np.array([WAVELENGTH_STEP[channel] for channel, _ in pairs])
    limits = np.array([BAND_LIMITS[pair] for pair in pairs])
    base = {"CHANNEL": ("3A", [str(c) for c, _ in pairs]), "BAND": ("12A", [band for _, band in pairs])}
    parts = [np.arange(*BAND_LIMITS[c, b], 2 * WAVELENGTH_STEP[c]) for c, b in pairs]
    wavelength = np.unique(np.round(np.concatenate(parts), 5))
    radii = {"ROISPATIAL": ("E", 2 * spaxels), "ROISPECTRAL": ("E", 2 * steps)}
    all_channels = {
        "WAVELENGTH": ("E", wavelength),
        "ROISPATIAL": ("E", np.full_like(wavelength, 0.4)),
        "ROISPECTRAL": ("E", np.full_like(wavelength, 0.004)),
    }

    def constant(like, value):
        return ("E", np.full(len(like), value))

    hdus = [
        table(
            "CUBEPAR",
            base
            | {
                "SPAXELSIZE": ("E", spaxels),
                "SPECTRALSTEP": ("E", steps),
                "WAVEMIN": ("E", limits[:, 0]),
                "WAVEMAX": ("E", limits[:, 1]),
            },
        ),
        table("CUBEPAR_MSM", base | radii | {"POWER": constant(pairs, 2.0), "SOFTRAD": constant(pairs, 0.01)}),
        table(
            "MULTICHANNEL_MSM",
            all_channels | {"POWER": constant(wavelength, 2.0), "SOFTRAD": constant(wavelength, 0.01)},
        ),
        table("CUBEPAR_EMSM", base | radii | {"SCALERAD": ("E", spaxels / 2)}),
        table("MULTICHANNEL_EMSM", all_channels | {"SCALERAD": constant(wavelength, 0.1)}),
        table("MULTICHANNEL_DRIZ", {"WAVELENGTH": ("E", wavelength)}),
    ]
    match = {crds_cache.EXPOSURE_TYPE: EXPOSURE_TYPE}
    cache.add_fits("cubepar", match, hdus, DATAMODL="MiriIFUCubeParsModel", EXP_TYPE=EXPOSURE_TYPE)


def _add_extraction_files(cache: CrdsCache) -> None:
    match = {crds_cache.EXPOSURE_TYPE: EXPOSURE_TYPE}
    meta = {"exposure": {"type": EXPOSURE_TYPE}}
    wavelength = np.linspace(4.8, 28.8, 60, dtype=np.float32)
    fwhm = 0.033 * wavelength + 0.106  # Law et al. 2023 [arcsec]
    apertures = {
        "wavelength": wavelength,
        "wavelength_units": "micron",
        "radius": 2 * fwhm,
        "radius_units": "arcsec",
        "inner_bkg": 2.5 * fwhm,
        "inner_bkg_units": "arcsec",
        "outer_bkg": 3 * fwhm,
        "outer_bkg_units": "arcsec",
        "axis_ratio": np.ones_like(wavelength),
        "axis_pa": np.zeros_like(wavelength),
        "axis_pa_units": "degree",
    }
    settings = {"region_type": "target", "subtract_background": True, "method": "subpixel", "subpixels": 10}
    cache.add_asdf("extract1d", match, {"data": apertures}, inline=True, meta=meta | settings)
    # The share of a Gaussian image within each radius.
    radius = np.outer([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], fwhm).astype(np.float32)
    correction = (1 / (1 - np.exp(-4 * np.log(2) * (radius / fwhm) ** 2))).astype(np.float32)
    aperture_correction = {
        "channel": "ANY",
        "band": "ANY",
        "wavelength": wavelength,
        "wavelength_units": "micron",
        "radius": radius,
        "radius_units": "arcsec",
        "apcorr": correction,
        "apcorr_err": np.zeros_like(correction),
    }
    cache.add_asdf("apcorr", match, {"apcorr_table": aperture_correction}, inline=True, meta=meta)


def _add_correction_tables(cache: CrdsCache) -> None:
    """Corrections of point sources and of stray light, which are not needed here: neutral."""
    match = {crds_cache.EXPOSURE_TYPE: EXPOSURE_TYPE}
    leak = np.linspace(11.4, 13.6, 40)
    transmission = ("WAVE_MIN", "WAVE_MAX", "T_WMIN_CENTRE", "T_WMIN_EDGE", "T_WMAX_CENTRE", "T_WMAX_EDGE")
    hdus = [
        table("LEAKCOR", {"WAVELENGTH": ("E", leak), "FRAC_LEAK": ("E", 0 * leak), "ERR_LEAK": ("E", 0 * leak)}),
        table("TRACOR", {"CHANNEL": ("J", CHANNELS)} | {name: ("E", np.ones(4)) for name in transmission}),
        table(
            "WAVCORR_OPTICAL",
            {"SUB_BAND": ("16A", ["1A"])}
            | {name: ("E", [1.0]) for name in ("BETA_SLICE", "WAVE_MIN", "WAVE_MAX", "SRP_MIN", "SRP_MAX")},
        ),
        table("WAVCORR_XSLICE", {"XSLICE_MIN": ("E", [1.0]), "XSLICE_MAX": ("E", [1.0])}),
        table("WAVCORR_SHIFT", {"BETA_OFF": ("E", [-1.0, 1.0]), "DS_MIN": ("E", [0, 0]), "DS_MAX": ("E", [0, 0])}),
    ]
    cache.add_fits("mrsptcorr", match, hdus, DATAMODL="MirMrsPtCorrModel", EXP_TYPE=EXPOSURE_TYPE)
    # Without tables of the cross artifact the step takes off only the pedestal that it finds between the channels.
    cache.add_fits("mrsxartcorr", match, [], DATAMODL="MirMrsXArtCorrModel", EXP_TYPE=EXPOSURE_TYPE)
