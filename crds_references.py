"""Calibration reference files: looked up in CRDS, fetched, and checked for damage, before anything needs them.

In: exposures, whose headers select the files, and the stages of `jwst` that they will go through. Exposures that CRDS
can not tell apart are looked up once. What is not in the cache is downloaded, one file after the other; workers then
only read. A file is sound if it has the size and SHA-1 sum
of the CRDS catalogue, which the server gives and the cache remembers; without one (a cache made by hand) if FITS blocks
and checksums, ASDF blocks or JSON are whole. Mappings carry their own sum.

Reference: the CRDS user guide, https://jwst-crds.stsci.edu/static/users_guide/index.html.
"""

import hashlib
import json
import os
import re
import warnings
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from astropy.io import fits

from errors import CrdsError, FileFormatError
from jwst_stages import StepParameters, pipeline_class
from observations import UNREADABLE, check_whole

BLOCK_BYTES = 1 << 20
OBSERVATORY = "jwst"
# Keywords of the date that CRDS compares with those from which on reference files hold, in its own notation.
DATE_KEYS = ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")
USE_AFTER = re.compile(r"'(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)'\s*:")
# What its mappings select by that is no keyword of an exposure.
NO_KEYWORDS = ("REFTYPE",)


def check_crds_environment() -> None:
    """Refuse to start where CRDS has not been set up.

    Raises
    ------
    CrdsError
    """
    path = os.environ.get("CRDS_PATH")
    if not path:
        raise CrdsError(
            "CRDS_PATH is not set: name a folder for the calibration reference files, for example "
            "'export CRDS_PATH=~/crds_cache CRDS_SERVER_URL=https://jwst-crds.stsci.edu'."
        )
    # `asdf`, which `jwst` reads them with, takes paths for URLs.
    if unquote(urlsplit(path).path) != path:
        raise CrdsError(
            f"CRDS_PATH is {path!r}: reference files below a folder with '#', '?', '%41' or '//' at its start can not "
            "be opened; name another folder."
        )
    if not os.environ.get("CRDS_SERVER_URL") and not (Path(path).expanduser() / "config").is_dir():
        raise CrdsError(
            f"CRDS_SERVER_URL is not set and CRDS_PATH={path} holds no cache: 'export "
            "CRDS_SERVER_URL=https://jwst-crds.stsci.edu' lets the reference files be downloaded."
        )


def find_references(exposures: Mapping[Path, Mapping[str, StepParameters]]) -> tuple[set[Path], dict[Path, str]]:
    """Look up the reference files of exposures in CRDS and fetch those that are not in the cache, one after the other.

    Parameters
    ----------
    exposures
        For each file (of any stage; its header selects the references) the stages that it will go through, with the
        parameters of their steps: references of skipped steps are not asked for.

    Returns
    -------
    references : set of Path
        In the cache.
    problems : dict
        Why they could not be found, for exposures whose were not.

    Raises
    ------
    CrdsError
        If CRDS has not been set up.
    """
    check_crds_environment()
    references: set[Path] = set()
    problems = {}
    selection: _Selection | None = None
    looked_up: set[Hashable] = set()
    for path, stages in exposures.items():
        key = None if selection is None else selection.key(path, stages)
        if key in looked_up:
            continue
        try:
            references |= _look_up(path, stages)
        # A wrong CRDS set-up ends in SystemExit; all else belongs to this one file and is met again when it is reduced.
        except (Exception, SystemExit) as error:
            problems[path] = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        if selection is None:
            # Only now the mappings are sure to be in the cache.
            selection = _Selection.of_context()
            key = selection.key(path, stages)
        if key is not None:
            looked_up.add(key)
    return references, problems


def _look_up(path: Path, stages: Mapping[str, StepParameters]) -> set[Path]:
    """The reference files of one exposure, fetched where they are not in the cache."""
    from stdatamodels.jwst import datamodels
    from stpipe import crds_client

    references: set[Path] = set()
    with datamodels.open(path) as model:
        for stage, steps in stages.items():
            pipeline = pipeline_class(stage)
            pipeline.get_config_from_reference(model)
            types = _reference_types(pipeline, steps)
            found = crds_client.get_multiple_reference_paths(model.get_crds_parameters(), types, OBSERVATORY)
            references.update(Path(name) for name in found.values() if name != "N/A")
    return references


class _Selection:
    """What CRDS selects the reference files of an exposure by: values of keywords, and where its date lies between
    those from which on files hold.

    Parameters
    ----------
    keywords
        FITS keywords of the primary header, by INSTRUME; an instrument that is not there has exposures of which none
        is known to be like another.
    dates
        'YYYY-MM-DD HH:MM:SS', in order.
    """

    def __init__(self, keywords: Mapping[str, tuple[str, ...]], dates: list[str]) -> None:
        self._keywords = keywords
        self._dates = dates

    @classmethod
    def of_context(cls) -> "_Selection":
        """That of the context in force; it must be in the cache."""
        from crds.core import config, rmap
        from crds.jwst.schema import dm_to_fits
        from stpipe import crds_client

        try:
            context = rmap.get_cached_mapping(crds_client.get_context_used(OBSERVATORY))
            keywords = {
                instrument.upper(): tuple(dm_to_fits(key) for key in keys if key not in (*DATE_KEYS, *NO_KEYWORDS))
                for instrument, keys in context.get_required_parkeys().items()
            }
            # A name of which it is not known what it is called in a header.
            keywords = {instrument: keys for instrument, keys in keywords.items() if None not in keys}
            texts = (Path(config.locate_mapping(name)).read_text() for name in context.mapping_names())
            return cls(keywords, sorted({date for text in texts for date in USE_AFTER.findall(text)}))
        except (Exception, SystemExit):
            # A server may have looked up the files by itself; then mappings are not here.
            return cls({}, [])

    def key(self, path: Path, stages: Mapping[str, StepParameters]) -> Hashable:
        """What is the same for exposures that CRDS can not tell apart; None where that is not known."""
        try:
            with open(path, "rb") as stream:
                header = fits.Header.fromfile(stream)
            values = [header.get(keyword) for keyword in self._keywords[header["INSTRUME"]]]
            date = f"{header['DATE-OBS']} {header['TIME-OBS']}"
            return json.dumps([header["INSTRUME"], values, bisect_right(self._dates, date), stages], sort_keys=True)
        except UNREADABLE:
            return None


def _reference_types(pipeline: type, steps: StepParameters) -> list[str]:
    """The reference types that the pipeline will itself ask for: those of the steps that are not skipped."""
    instance = pipeline()
    for name, parameters in steps.items():
        if "skip" in parameters:
            getattr(instance, name).skip = parameters["skip"]
    return sorted(set(instance.reference_file_types))


def crds_catalogue() -> dict[str, dict[str, Any]]:
    """Size and SHA-1 sum of every file that CRDS has, by its name; empty where neither server nor cache knows.

    The server tells both with its configuration, which the cache keeps.
    """
    from crds.client import proxy
    from crds.core import heavy_client

    try:
        return proxy.crds_decode(heavy_client.get_config_info(OBSERVATORY)["download_metadata"])
    except (Exception, SystemExit):
        # An old or hand-made configuration has none, in one way or another.
        return {}


def reference_damage(path: Path, catalogue: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What is wrong with a reference file, in some words; None if nothing is.

    Parameters
    ----------
    path
        In the cache.
    catalogue
        See `crds_catalogue`. A file that is not in it is checked by its own structure.
    """
    if not path.is_file():
        return "it is not there"
    known = catalogue.get(path.name)
    if known is None:
        return _structural_damage(path)
    size = path.stat().st_size
    if size != int(known["size"]):
        return f"it has {size} bytes instead of {known['size']}"
    if known.get("sha1sum") not in (None, "", "none", _sha1(path)):
        return "its SHA-1 sum is not that of the CRDS catalogue"
    return None


def _sha1(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _structural_damage(path: Path) -> str | None:
    try:
        if path.suffix == ".fits":
            check_whole(path, checksums=True)
        elif path.suffix == ".asdf":
            import asdf

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # The blocks are read and their MD5 sums compared; the tree is not made into objects.
                with asdf.open(path, lazy_load=False, memmap=False, validate_checksums=True, lazy_tree=True):
                    pass
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
    except FileFormatError as error:
        return str(error).removeprefix(f"{path} ").partition(": download")[0]
    except Exception as error:
        # Each format has its own ways to fail on bytes that are not its.
        return f"it can not be read ({(str(error).strip() or type(error).__name__).splitlines()[0]})"
    return None


def damaged_mappings() -> list[Path]:
    """The mappings in the cache whose text does not have the SHA-1 sum that it says."""
    from crds.core import config

    directory = Path(config.get_crds_mappath(OBSERVATORY))
    return [
        path
        for path in sorted(directory.glob("*"))
        if path.suffix in (".pmap", ".imap", ".rmap") and not _has_own_sum(path)
    ]


def _has_own_sum(path: Path) -> bool:
    text = path.read_text(errors="replace")
    said = re.search(r"'sha1sum'\s*:\s*'(\w+)'", text)
    # CRDS takes the sum of the whole text but for the line that holds it.
    unsigned = "".join(line for line in text.splitlines(keepends=True) if "sha1sum" not in line)
    return said is not None and hashlib.sha1(unsigned.encode(), usedforsecurity=False).hexdigest() == said[1]


def can_download() -> bool:
    """Whether there is a CRDS server to fetch files from, and a cache that they may be put into."""
    from crds.client import api
    from crds.core import config

    return "serverless" not in api.get_crds_server() and not config.get_cache_readonly()


def fetch_anew(paths: Iterable[Path]) -> None:
    """Fetch files of the cache, mappings or references, again.

    Raises
    ------
    CrdsError
        If one of them can not be fetched.
    """
    from crds.client import api
    from stpipe import crds_client

    names = [path.name for path in paths]
    try:
        context = crds_client.get_context_used(OBSERVATORY)
        api.dump_files(context, names, ignore_cache=True, raise_exceptions=True)
    except (Exception, SystemExit) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CrdsError(f"CRDS could not fetch {', '.join(names)} anew ({reason}): check the network.") from error
