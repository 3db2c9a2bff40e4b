"""The optical elements of the NIRSpec IFU: the content of the reference files that describe them.

In: a grating and a filter, and perhaps a directory with the CRDS reference files of the real instrument. Out: the
content of one file of each type, built in (`simulate.nirspec_model`) or read. `simulate.nirspec_optics` puts the
elements together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from errors import FileFormatError, InputError

# Gratings with the filters they are used with, the usual one first, and the wavelengths of each pair [um] (JDox
# "NIRSpec Dispersers and Filters").
WAVELENGTHS = {
    ("PRISM", "CLEAR"): (0.60, 5.30),
    ("G140M", "F100LP"): (0.97, 1.89),
    ("G140M", "F070LP"): (0.90, 1.27),
    ("G140H", "F100LP"): (0.97, 1.89),
    ("G140H", "F070LP"): (0.95, 1.27),
    ("G235M", "F170LP"): (1.66, 3.17),
    ("G235H", "F170LP"): (1.66, 3.17),
    ("G395M", "F290LP"): (2.87, 5.27),
    ("G395H", "F290LP"): (2.87, 5.27),
}

# Reference types of the optics, and which of them there is one of for each grating or filter.
GEOMETRY_TYPES = (
    "camera",
    "chromcorr",
    "collimator",
    "disperser",
    "fore",
    "fpa",
    "ifufore",
    "ifupost",
    "ifuslicer",
    "ote",
    "wavelengthrange",
)
OF_GRATING, OF_FILTER = ("disperser",), ("fore", "chromcorr")


@dataclass(frozen=True)
class Elements:
    """The optical elements of one grating and filter.

    Attributes
    ----------
    contents
        Reference type to the content of its file (without `meta`).
    files
        Reference type to the file this was read from; empty for the built-in model.
    """

    contents: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Path]


@lru_cache(maxsize=8)
def get_elements(grating: str, filter_name: str, geometry: str | Path | None = None) -> Elements:
    """The built-in optical elements, or those of the reference files in the directory `geometry`."""
    if geometry is not None:
        return read_elements(geometry, grating, filter_name)
    from simulate.nirspec_model import build_elements

    return build_elements(grating, filter_name)


def geometry_files(directory: str | Path, grating: str, filter_name: str) -> dict[str, Path]:
    """Reference type to file of one grating and filter, of the files in a directory.

    Files are recognised by their metadata; a file for a grating or filter by what its metadata or else its name says.

    Raises
    ------
    InputError
        If the directory or a file of the setting is missing.
    """
    import asdf

    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"--geometry {directory} is not a directory: name the one with the NIRSpec reference files.")
    found: dict[str, Path] = {}
    for path in sorted(directory.glob("*.asdf")):
        with asdf.open(path) as file:
            meta = file.tree.get("meta", {})
        instrument, reference_type = meta.get("instrument", {}), str(meta.get("reftype", "")).lower()
        if instrument.get("name") != "NIRSPEC" or reference_type not in GEOMETRY_TYPES:
            continue
        of_all = reference_type == "chromcorr" and "filter" not in instrument
        if reference_type in OF_GRATING and grating not in (instrument.get("grating"), path.stem.split("_")[-1]):
            continue
        of_filter = reference_type in OF_FILTER and not of_all
        if of_filter and filter_name not in (instrument.get("filter"), path.stem.split("_")[-1]):
            continue
        found[reference_type] = path
    missing = [reference_type for reference_type in GEOMETRY_TYPES if reference_type not in found]
    if missing:
        raise FileFormatError(
            f"--geometry {directory} has no {missing[0]} file for {grating} {filter_name}: add it or drop the grating."
        )
    return found


def read_elements(directory: str | Path, grating: str, filter_name: str) -> Elements:
    """Read the optical elements of a setting from its CRDS reference files; see `geometry_files`."""
    import asdf

    files = geometry_files(directory, grating, filter_name)
    contents = {}
    for reference_type, path in files.items():
        with asdf.open(path, lazy_load=False, memmap=False) as file:
            contents[reference_type] = {
                key: value for key, value in file.tree.items() if key not in ("asdf_library", "history", "meta")
            }
    return Elements(contents, files)
