"""The reference files that belong to the simulated NIRSpec exposures, written into a CRDS cache.

Everything the simulated instrument does and a reference file can describe is described here by the same numbers. Which
types `jwst` asks for, and the form each must have: stdatamodels' schemas and the CRDS documentation of each type
(https://jwst-pipeline.readthedocs.io).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units
from astropy.io import fits

from simulate import crds_cache, nirspec_detector
from simulate.crds_cache import CrdsCache, image, jwst_reference_types, table
from simulate.nirspec_calibration import (
    FLUX_CONVERSION,
    PATH_LOSS,
    PIXEL_AREA,
    STERADIAN,
    fore_optics_throughput,
    pixel_flat,
    relative_conversion,
    spectrograph_flat,
)
from simulate.nirspec_elements import GEOMETRY_TYPES, OF_FILTER, OF_GRATING, WAVELENGTHS, Elements
from simulate.nirspec_optics import NUMBER_OF_SLICES, Optics
from simulate.nirspec_plan import MODE
from simulate.nirspec_shutters import operability, shutter_tables

EXPOSURE_TYPE = MODE.exposure_type
OF_IFU = {crds_cache.EXPOSURE_TYPE: EXPOSURE_TYPE}
READOUTS = "NRS|NRSRAPID|NRSRAPIDD6"
SHAPE = nirspec_detector.SHAPE

# Spaxel [arcsec] and wavelength step of the cubes [um], as in the CRDS cubepar file.
SPAXEL_SIZE = 0.1
WAVELENGTH_STEP = {
    "PRISM": 0.005,
    "G140M": 0.000636,
    "G140H": 0.000235,
    "G235M": 0.00106,
    "G235H": 0.000396,
    "G395M": 0.00179,
    "G395H": 0.000665,
}
DO_NOT_USE, DEAD, HOT, NO_FLAT_FIELD, REFERENCE_PIXEL = 2**0, 2**10, 2**11, 2**18, 2**31
FLAGS = {
    "DO_NOT_USE": DO_NOT_USE,
    "DEAD": DEAD,
    "HOT": HOT,
    "NO_FLAT_FIELD": NO_FLAT_FIELD,
    "REFERENCE_PIXEL": REFERENCE_PIXEL,
}


def write_reference_files(root: str | Path, optics: Sequence[Optics], *, groups: int) -> CrdsCache:
    """Write a complete CRDS cache.

    Parameters
    ----------
    root
        Directory of the cache (CRDS_PATH).
    optics
        Of each detector with each grating and filter.
    groups
        Number of groups of the longest ramp to be reduced.
    """
    cache = CrdsCache(root, MODE.instrument)
    pairs = list(dict.fromkeys((of.grating, of.filter) for of in optics))
    add_geometry(cache, {(of.grating, of.filter): of.elements for of in optics})
    cache.add_asdf("msa", OF_IFU, shutter_tables(), meta=_meta())
    cache.add_json("msaoper", OF_IFU, operability())
    for detector in dict.fromkeys(of.detector for of in optics):
        _add_detector_files(cache, detector, groups)
    for of in optics:
        _add_spectrograph_flat(cache, of)
    for filter_name in dict.fromkeys(name for _, name in pairs):
        wavelength = np.linspace(0.5, 6.0, 1101)
        variation = _fast_variation(wavelength, fore_optics_throughput(wavelength))
        _add_flat(cache, "fflat", {crds_cache.FILTER: filter_name}, [variation], FILTER=filter_name)
    _add_path_loss(cache)
    _add_photometry(cache, pairs)
    _add_cube_parameters(cache, pairs)
    _add_extraction(cache)
    cache.finish(jwst_reference_types())
    return cache


def _meta() -> dict[str, Any]:
    return {"exposure": {"type": EXPOSURE_TYPE, "p_exptype": f"{EXPOSURE_TYPE}|"}}


def add_geometry(cache: CrdsCache, settings: Mapping[tuple[str, str], Elements]) -> None:
    """Add the files of the optics.

    Parameters
    ----------
    cache
        Gets the files.
    settings
        (Grating, filter) to its optical elements; files that these were read from are taken as they are.
    """
    done: set[tuple[str, str]] = set()
    for (grating, filter_name), elements in settings.items():
        for reference_type in GEOMETRY_TYPES:
            match, instrument = dict(OF_IFU), {}
            if reference_type in OF_GRATING:
                match[crds_cache.GRATING] = instrument["grating"] = grating
            elif reference_type in OF_FILTER:
                match[crds_cache.FILTER] = instrument["filter"] = filter_name
            key = (reference_type, "".join(instrument.values()))
            if key in done:
                continue
            done.add(key)
            if elements.files:
                cache.add_file(reference_type, match, elements.files[reference_type])
                continue
            more = {"wavelength_units": units.m} if reference_type == "wavelengthrange" else {}
            cache.add_asdf(reference_type, match, elements.contents[reference_type], meta=_meta() | more, **instrument)


def _add_detector_files(cache: CrdsCache, detector: str, groups: int) -> None:
    fast, slow = nirspec_detector.READ_AXES[detector]
    header = {
        "DETECTOR": detector,
        "SUBARRAY": "FULL",
        "SUBSTRT1": 1,
        "SUBSTRT2": 1,
        "SUBSIZE1": SHAPE[1],
        "SUBSIZE2": SHAPE[0],
        "FASTAXIS": fast,
        "SLOWAXIS": slow,
    }
    by_subarray = {crds_cache.DETECTOR: detector, crds_cache.SUBARRAY: "FULL"}
    by_readout = by_subarray | {crds_cache.READOUT: READOUTS}
    readout = header | {"READPATT": "NRSRAPID"}
    ones, zeros = np.ones(SHAPE, dtype=np.float32), np.zeros(SHAPE, dtype=np.float32)
    cache.add_fits("gain", by_subarray, [image("SCI", ones * nirspec_detector.GAIN)], DATAMODL="GainModel", **header)
    # Reference pixels are not bent; with a signal near zero it makes no difference.
    coefficients = np.stack([zeros, ones, ones * nirspec_detector.NONLINEARITY])
    cache.add_fits(
        "linearity",
        by_subarray,
        [image("COEFFS", coefficients), _no_flags(), _flag_definitions()],
        DATAMODL="LinearityModel",
        **header,
    )
    defects = nirspec_detector.get_defects(detector)
    flags = np.where(nirspec_detector.is_reference(), REFERENCE_PIXEL, 0).astype(np.uint32)
    flags.flat[defects.dead] = DO_NOT_USE | DEAD
    flags.flat[defects.hot] = DO_NOT_USE | HOT
    saturation = ones * nirspec_detector.SATURATION
    # The readnoise file holds the noise of a difference of two reads.
    noise = ones * np.sqrt(2) * nirspec_detector.READ_NOISE
    dark = nirspec_detector.dark_ramp(max(groups, 8))
    by_type = {
        "mask": ("MaskModel", [image("DQ", flags)]),
        "saturation": ("SaturationModel", [image("SCI", saturation), _no_flags()]),
        "superbias": (
            "SuperBiasModel",
            [image("SCI", nirspec_detector.get_bias(detector)), image("ERR", zeros), _no_flags()],
        ),
        "dark": ("DarkNirspecModel", [image("SCI", dark), _no_flags()]),
    }
    for reference_type, (model, extensions) in by_type.items():
        extra = {"NGROUPS": len(dark), "NFRAMES": 1, "GROUPGAP": 0} if reference_type == "dark" else {}
        hdus = [*extensions, _flag_definitions()]
        cache.add_fits(reference_type, by_readout, hdus, DATAMODL=model, **readout, **extra)
    cache.add_fits("readnoise", by_readout, [image("SCI", noise, BUNIT="DN")], DATAMODL="ReadnoiseModel", **readout)
    wavelength = np.array([0.5, 6.0])
    # One plane for each of two wavelengths, and the same.
    planes = np.stack([pixel_flat(detector)] * 2)
    hdus = [
        image("SCI", planes),
        image("ERR", zeros),
        _no_flags(),
        table("WAVELENGTH", {"wavelength": ("E", wavelength)}),
        _fast_variation(wavelength, np.ones(2)),
        _flag_definitions(),
    ]
    _add_flat(cache, "dflat", {crds_cache.DETECTOR: detector}, hdus, DETECTOR=detector)


def _no_flags() -> fits.CompImageHDU:
    return image("DQ", np.zeros(SHAPE, dtype=np.uint32))


def _flag_definitions() -> fits.BinTableHDU:
    columns = {
        "BIT": ("J", [flag.bit_length() - 1 for flag in FLAGS.values()]),
        "VALUE": ("K", list(FLAGS.values())),
        "NAME": ("40A", list(FLAGS)),
        "DESCRIPTION": ("80A", [name.replace("_", " ").lower() for name in FLAGS]),
    }
    return table("DQ_DEF", columns)


def _add_spectrograph_flat(cache: CrdsCache, optics: Optics) -> None:
    """The flat of the spectrograph, which has no values where a slice covers a pixel in part or not at all."""
    flags = np.full(SHAPE, DO_NOT_USE | NO_FLAT_FIELD, dtype=np.uint32)
    for pixels in optics.pixels:
        whole = pixels.coverage > 1 - 1e-9
        flags[pixels.rows[whole], pixels.columns[whole]] = 0
    hdus = [
        image("SCI", spectrograph_flat(optics.detector)),
        image("ERR", np.zeros(SHAPE, dtype=np.float32)),
        image("DQ", flags),
        _fast_variation(np.array([0.5, 6.0]), np.ones(2)),
        _flag_definitions(),
    ]
    setting = {"DETECTOR": optics.detector, "FILTER": optics.filter, "GRATING": optics.grating}
    match = {
        crds_cache.DETECTOR: optics.detector,
        crds_cache.FILTER: optics.filter,
        crds_cache.GRATING: optics.grating,
    }
    _add_flat(cache, "sflat", match, hdus, **setting)


def _add_flat(cache: CrdsCache, reference_type: str, match: Mapping[str, str], hdus: list, **header: str) -> None:
    cache.add_fits(
        reference_type, dict(match) | OF_IFU, hdus, DATAMODL="NirspecFlatModel", EXP_TYPE=EXPOSURE_TYPE, **header
    )


def _fast_variation(wavelength: np.ndarray, values: np.ndarray) -> fits.BinTableHDU:
    count = len(wavelength)
    columns = {
        "slit_name": ("15A", ["ANY"]),
        "nelem": ("J", [count]),
        "wavelength": (f"{count}E", [wavelength]),
        "data": (f"{count}E", [values]),
        "error": (f"{count}E", [np.zeros(count)]),
    }
    return table("FAST_VARIATION", columns)


def _add_path_loss(cache: CrdsCache) -> None:
    """Path loss of extended sources; that of point sources, which it is not used for, is the same everywhere."""
    place = {"CRPIX1": 11.0, "CRVAL1": 0.0, "CDELT1": 0.05, "CRPIX2": 11.0, "CRVAL2": 0.0, "CDELT2": 0.05}
    spectral = {"CRVAL": 6e-7, "CDELT": 2.35e-7}
    along = {"CRPIX3": 1.0} | {f"{key}3": value for key, value in spectral.items()}
    alone = {"CRPIX1": 1.0} | {f"{key}1": value for key, value in spectral.items()}
    cube, line = (21, 21, 21), 21
    hdus = [
        fits.ImageHDU(np.full(cube, PATH_LOSS), fits.Header(list((place | along).items())), "PS"),
        fits.ImageHDU(np.zeros(cube), name="PSVAR"),
        fits.ImageHDU(np.full(line, PATH_LOSS), fits.Header(list(alone.items())), "UNI"),
        fits.ImageHDU(np.zeros(line), name="UNIVAR"),
    ]
    cache.add_fits("pathloss", OF_IFU, hdus, DATAMODL="PathlossModel", EXP_TYPE=EXPOSURE_TYPE)


def _add_photometry(cache: CrdsCache, pairs: Sequence[tuple[str, str]]) -> None:
    area = {"PIXAR_A2": PIXEL_AREA, "PIXAR_SR": PIXEL_AREA * STERADIAN}
    slices = {
        "slice_id": ("I", np.arange(NUMBER_OF_SLICES)),
        "pixarea": ("E", np.full(NUMBER_OF_SLICES, PIXEL_AREA)),
    }
    cache.add_fits(
        "area", OF_IFU, [table("AREA", slices)], DATAMODL="NirspecIfuAreaModel", EXP_TYPE=EXPOSURE_TYPE, **area
    )
    count = 501
    wavelength = [np.linspace(0.95 * WAVELENGTHS[pair][0], 1.05 * WAVELENGTHS[pair][1], count) for pair in pairs]
    relative = [relative_conversion(lam, *pair) for lam, pair in zip(wavelength, pairs, strict=True)]
    columns = {
        "filter": ("12A", [filter_name for _, filter_name in pairs]),
        "grating": ("15A", [grating for grating, _ in pairs]),
        "photmj": ("E", [FLUX_CONVERSION] * len(pairs)),
        "uncertainty": ("E", [0.01 * FLUX_CONVERSION] * len(pairs)),
        "nelem": ("I", [count] * len(pairs)),
        "wavelength": (f"{count}E", wavelength),
        "relresponse": (f"{count}E", relative),
        "reluncertainty": (f"{count}E", np.zeros((len(pairs), count))),
    }
    cache.add_fits(
        "photom", OF_IFU, [table("PHOTOM", columns)], DATAMODL="NrsMosPhotomModel", EXP_TYPE=EXPOSURE_TYPE, **area
    )


def _add_cube_parameters(cache: CrdsCache, pairs: Sequence[tuple[str, str]]) -> None:
    steps = np.array([WAVELENGTH_STEP[grating] for grating, _ in pairs])
    limits = np.array([WAVELENGTHS[pair] for pair in pairs])

    def constant(like: Sequence, value: float) -> tuple[str, np.ndarray]:
        return "E", np.full(len(like), value)

    base = {"disperser": ("5A", [pair[0] for pair in pairs]), "filter": ("6A", [pair[1] for pair in pairs])}
    radii = {"roispatial": constant(pairs, 2 * SPAXEL_SIZE), "roispectral": ("E", 2.5 * steps)}
    inverse_distance = {"power": constant(pairs, 2.0), "softrad": constant(pairs, 0.01)}
    hdus = [
        table(
            "CUBEPAR",
            base
            | {
                "wavemin": ("E", limits[:, 0]),
                "wavemax": ("E", limits[:, 1]),
                "spaxelsize": constant(pairs, SPAXEL_SIZE),
                "spectralstep": ("E", steps),
            },
        ),
        table("CUBEPAR_MSM", base | radii | inverse_distance),
        table("CUBEPAR_EMSM", base | radii | {"scalerad": constant(pairs, 0.08)}),
    ]
    wavelength = np.array([0.6, 3.0, 5.3])
    radii = {"roispatial": constant(wavelength, 2 * SPAXEL_SIZE), "roispectral": constant(wavelength, 0.0016)}
    weights = {
        "MSM": radii | {"power": constant(wavelength, 2.0), "softrad": constant(wavelength, 0.01)},
        "EMSM": radii | {"scalerad": constant(wavelength, 0.08)},
        "DRIZZLE": {},
    }
    hdus += [
        table(f"MULTICHAN_{resolution}_{weighting}", {"wavelength": ("E", wavelength)} | columns)
        for resolution in ("PRISM", "MED", "HIGH")
        for weighting, columns in weights.items()
    ]
    cache.add_fits("cubepar", OF_IFU, hdus, DATAMODL="NirspecIFUCubeParsModel", EXP_TYPE=EXPOSURE_TYPE)


def _add_extraction(cache: CrdsCache) -> None:
    wavelength = np.array([0.5, 6.0], dtype=np.float32)
    apertures: dict[str, Any] = {"wavelength": wavelength, "wavelength_units": "micron"}
    for name, value, unit in (
        ("radius", 0.45, "arcsec"),
        ("inner_bkg", 1.0, "arcsec"),
        ("outer_bkg", 1.4, "arcsec"),
        ("axis_pa", 0.0, "degrees"),
    ):
        apertures |= {name: np.full_like(wavelength, value), f"{name}_units": unit}
    apertures["axis_ratio"] = np.ones_like(wavelength)
    settings = {"region_type": "target", "subtract_background": False, "method": "subpixel", "subpixels": 10}
    cache.add_asdf("extract1d", OF_IFU, {"data": apertures}, inline=True, meta=_meta() | settings)
