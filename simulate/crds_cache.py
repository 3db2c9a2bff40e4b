"""A CRDS cache of our own making, which the real `crds` and `jwst` use without knowing.

In: reference files (FITS, ASDF or any file as it is) with the header values they apply to. Out: a directory with
`mappings/jwst` (pipeline, instrument and reference mappings with their checksums), `references/jwst/<instrument>` and
`config/jwst`, complete for every reference type that the installed `jwst` may ask for. No server is needed.

Reference: the CRDS user manual, https://jwst-crds.stsci.edu/static/users_guide/rmap_syntax.html.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from files import written_whole

# Names differ between the instruments, since CRDS keeps the mappings of a process by their names.
CONTEXTS = {"MIRI": "jwst_9001.pmap", "NIRSPEC": "jwst_9002.pmap"}
SERVER_URL = "https://crds-serverless-mode.stsci.edu"
USE_AFTER = "2021-01-01 00:00:00"
DETECTOR, CHANNEL, BAND = "META.INSTRUMENT.DETECTOR", "META.INSTRUMENT.CHANNEL", "META.INSTRUMENT.BAND"
EXPOSURE_TYPE, READOUT, SUBARRAY = "META.EXPOSURE.TYPE", "META.EXPOSURE.READPATT", "META.SUBARRAY.NAME"
GRATING, FILTER = "META.INSTRUMENT.GRATING", "META.INSTRUMENT.FILTER"


@dataclass
class _Selection:
    """The reference files of one type: the header keys that select them, and the file for each set of values."""

    keys: tuple[str, ...]
    files: dict[tuple[str, ...], str] = field(default_factory=dict)


class CrdsCache:
    """A cache for one instrument, filled file by file and then closed with `finish`.

    Parameters
    ----------
    root
        Directory to fill (CRDS_PATH); made if missing.
    instrument
        'MIRI' or 'NIRSPEC'.
    """

    def __init__(self, root: str | Path, instrument: str) -> None:
        self.root = Path(root)
        self.instrument = instrument.upper()
        self.references = self.root / "references" / "jwst" / instrument.lower()
        self.mappings = self.root / "mappings" / "jwst"
        self.configuration = self.root / "config" / "jwst"
        for directory in (self.references, self.mappings, self.configuration):
            directory.mkdir(parents=True, exist_ok=True)
        self._selections: dict[str, _Selection] = {}

    def add_fits(
        self,
        reference_type: str,
        match: Mapping[str, str],
        hdus: Sequence[fits.hdu.base.ExtensionHDU],
        **header: Any,
    ) -> Path:
        """Write a FITS reference file.

        Parameters
        ----------
        reference_type
            CRDS name of the type, in small letters.
        match
            Header key of the data (`META.INSTRUMENT.BAND`) to the value this file is for.
        hdus
            Extensions, see `image` and `table`.
        **header
            More cards of the primary header (DATAMODL, DETECTOR, ...).
        """
        path = self._new_file(reference_type, match, ".fits")
        primary = fits.PrimaryHDU()
        cards = {
            "TELESCOP": "JWST",
            "INSTRUME": self.instrument,
            "REFTYPE": reference_type.upper(),
            "FILENAME": path.name,
            "AUTHOR": "simulated observatory",
            "PEDIGREE": "DUMMY",
            "DESCRIP": "reference file of the simulated observatory, not for real data",
            "HISTORY": "consistent with the simulated exposures it belongs to",
            "USEAFTER": USE_AFTER.replace(" ", "T"),
        }
        primary.header.update(cards | header)
        fits.HDUList([primary, *hdus]).writeto(path, overwrite=True)
        return path

    def add_asdf(
        self,
        reference_type: str,
        match: Mapping[str, str],
        tree: Mapping[str, Any],
        *,
        inline: bool = False,
        meta: Mapping[str, Any] | None = None,
        **instrument: str,
    ) -> Path:
        """Write an ASDF reference file.

        Parameters
        ----------
        reference_type, match
            As for `add_fits`.
        tree
            What the file holds besides `meta`.
        inline
            Store arrays as text in the file: needed where `jwst` reads them after it has closed the file.
        meta
            More metadata (units, for example).
        **instrument
            Instrument metadata: detector, channel, band.
        """
        import asdf

        path = self._new_file(reference_type, match, ".asdf")
        metadata = {
            "author": "simulated observatory",
            "pedigree": "DUMMY",
            "description": "reference file of the simulated observatory, not for real data",
            "useafter": USE_AFTER.replace(" ", "T"),
            "telescope": "JWST",
            "reftype": reference_type,
            "filename": path.name,
            "instrument": {"name": self.instrument, **instrument},
            **(meta or {}),
        }
        storage = {"all_array_storage": "inline"} if inline else {"all_array_compression": "zlib"}
        asdf.AsdfFile({**tree, "meta": metadata}).write_to(path, **storage)
        return path

    def add_json(self, reference_type: str, match: Mapping[str, str], content: Mapping[str, Any]) -> Path:
        """Write a JSON reference file with all of its content."""
        path = self._new_file(reference_type, match, ".json")
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path

    def add_file(self, reference_type: str, match: Mapping[str, str], source: str | Path) -> Path:
        """Take a reference file as it is, under its own name."""
        source = Path(source)
        path = self.references / source.name
        self._select(reference_type, match, path.name)
        shutil.copyfile(source, path)
        return path

    def files(self) -> dict[str, tuple[str, ...]]:
        """Names of the files of each type."""
        return {name: tuple(selection.files.values()) for name, selection in self._selections.items()}

    def finish(self, reference_types: Iterable[str]) -> None:
        """Write the mappings and the configuration; types in `reference_types` without a file are answered 'N/A'."""
        instrument, context = self.instrument.lower(), CONTEXTS[self.instrument]
        selector = dict.fromkeys(reference_types, "N/A")
        for reference_type, selection in self._selections.items():
            name = f"jwst_{instrument}_{reference_type}_0001.rmap"
            selector[reference_type] = name
            self._write_mapping(name, *self._reference_mapping(name, reference_type, selection))
        instrument_mapping = f"jwst_{instrument}_0001.imap"
        self._write_mapping(
            instrument_mapping,
            {"instrument": self.instrument, "mapping": "INSTRUMENT", "parkey": ("REFTYPE",)},
            _selector_text(dict(sorted(selector.items()))),
        )
        self._write_mapping(
            context,
            {"mapping": "PIPELINE", "parkey": ("META.INSTRUMENT.NAME",)},
            _selector_text({self.instrument: instrument_mapping}),
        )
        server = {
            "observatory": "jwst",
            "status": "simulated observatory",
            "connected": False,
            "force_remote_mode": False,
            "operational_context": context,
            "latest_context": context,
            "edit_context": context,
            "bad_files": "",
            "bad_files_list": [],
            "mappings": [],
            "last_synced": "simulated observatory",
            "reference_url": "",
            "mapping_url": "",
            "crds_version": {"str": "14.0.0"},
        }
        _write_text(self.configuration / "server_config", repr(server))
        _write_text(self.configuration / "ref_cache_subdir_mode", "instrument\n")

    def _new_file(self, reference_type: str, match: Mapping[str, str], suffix: str) -> Path:
        number = len(self._selections[reference_type].files) + 1 if reference_type in self._selections else 1
        name = f"jwst_{self.instrument.lower()}_{reference_type}_{number:04d}{suffix}"
        self._select(reference_type, match, name)
        return self.references / name

    def _select(self, reference_type: str, match: Mapping[str, str], name: str) -> None:
        selection = self._selections.setdefault(reference_type, _Selection(tuple(match)))
        if selection.keys != tuple(match):
            raise ValueError(f"{reference_type}: files selected by {selection.keys} and by {tuple(match)}")
        selection.files[tuple(match.values())] = name

    def _reference_mapping(self, name: str, reference_type: str, selection: _Selection) -> tuple[dict[str, Any], str]:
        header = {
            "classes": ("Match", "UseAfter"),
            "file_ext": Path(next(iter(selection.files.values()))).suffix,
            "filekind": reference_type.upper(),
            "filetype": reference_type.upper(),
            "instrument": self.instrument,
            "mapping": "REFERENCE",
            "parkey": (selection.keys, ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")),
            "suffix": reference_type,
            "text_descr": reference_type,
        }
        lines = ["selector = Match({"]
        for values, file in sorted(selection.files.items()):
            lines += [f"    {values!r} : UseAfter({{", f"        {USE_AFTER!r} : {file!r},", "    }),"]
        return header, "\n".join([*lines, "})", ""])

    def _write_mapping(self, name: str, header: Mapping[str, Any], selector: str) -> None:
        header = {"name": name, "observatory": "JWST", "derived_from": "simulated observatory", **header}

        def text(checksum: str) -> str:
            lines = [f"    {key!r} : {value!r}," for key, value in sorted({**header, "sha1sum": checksum}.items())]
            return "\n".join(["header = {", *lines, "}", "", selector])

        # CRDS takes the checksum of the whole text but for the line that holds it.
        unsigned = "".join(line for line in text("").splitlines(keepends=True) if "sha1sum" not in line)
        _write_text(self.mappings / name, text(hashlib.sha1(unsigned.encode()).hexdigest()))


def image(name: str, data: np.ndarray, **header: Any) -> fits.CompImageHDU:
    """An image extension, compressed without loss and transparently to readers.

    Floating-point data are stored in single precision. Without `quantize_level=0` astropy would round them.
    """
    data = np.ascontiguousarray(data, dtype=np.float32 if data.dtype.kind == "f" else data.dtype)
    compression = "GZIP_2" if data.dtype.kind == "f" else "GZIP_1"
    return fits.CompImageHDU(
        data, header=fits.Header(list(header.items())), name=name, compression_type=compression, quantize_level=0
    )


def table(name: str, columns: Mapping[str, tuple[str, Any]]) -> fits.BinTableHDU:
    """A table extension; `columns` maps a column's name to its FITS format and values."""
    return fits.BinTableHDU.from_columns(
        [fits.Column(name=column, format=form, array=np.asarray(values)) for column, (form, values) in columns.items()],
        name=name,
    )


def jwst_reference_types() -> set[str]:
    """Every reference and parameter type that stages 1-3 of the installed `jwst` may ask CRDS for.

    A missing type is an error for CRDS, 'N/A' is an answer. Steps that are pipelines themselves are searched too.
    """
    from jwst.pipeline import Detector1Pipeline, Spec2Pipeline, Spec3Pipeline

    types: set[str] = set()
    pending: list[type] = [Detector1Pipeline, Spec2Pipeline, Spec3Pipeline]
    while pending:
        step = pending.pop()
        types.add(f"pars-{step.__name__.lower()}")
        if getattr(step, "step_defs", None):
            pending += step.step_defs.values()
        else:
            types.update(step.reference_file_types)
    return types


def _selector_text(selector: Mapping[str, str]) -> str:
    return "\n".join(["selector = {", *(f"    {key!r} : {value!r}," for key, value in selector.items()), "}", ""])


def _write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text)
