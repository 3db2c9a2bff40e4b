"""The reference files that belong to the simulated NIRSpec exposures, written into a CRDS cache.

Everything the simulated instrument does and a reference file can describe is described here by the same numbers. Which
types `jwst` asks for, and the form each must have: stdatamodels' schemas and the CRDS documentation of each type
(https://jwst-pipeline.readthedocs.io).
"""

from collections.abc import Mapping
from typing import Any

from astropy import units

from simulate import crds_cache
from simulate.crds_cache import CrdsCache
from simulate.nirspec_optics import GEOMETRY_TYPES, OF_FILTER, OF_GRATING, Elements
from simulate.nirspec_shutters import shutter_tables

EXPOSURE_TYPE = "NRS_IFU"
OF_IFU = {crds_cache.EXPOSURE_TYPE: EXPOSURE_TYPE}


def add_geometry(cache: CrdsCache, settings: Mapping[tuple[str, str], Elements]) -> None:
    """Add the files of the optics.

    Parameters
    ----------
    cache
        Gets the files.
    settings
        (Grating, filter) to its optical elements; files that these were read from are taken as they are.
    """
    meta: dict[str, Any] = {"exposure": {"type": EXPOSURE_TYPE, "p_exptype": f"{EXPOSURE_TYPE}|"}}
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
            cache.add_asdf(reference_type, match, elements.contents[reference_type], meta=meta | more, **instrument)
    cache.add_asdf("msa", OF_IFU, shutter_tables(), meta=meta)
