"""Shifting the pointing of a cube: SCI header and the WCS in the ASDF extension together.

The offset is by how much the header's WCS reads too high [arcsec on the sky]; it is subtracted from CRVAL1 (divided by
cos Dec) and CRVAL2. The SCI header keeps the offset (NAV_DRA, NAV_DDEC) and the original values (NAV_CRV1, NAV_CRV2):
every navigation starts from those, so that doing it twice does not shift twice.

Who reads what: astropy, DS9, specutils, PlanetMapper and the steps of this project read the header. `IFUCubeModel`
takes `meta.wcsinfo` from the header, too, but `meta.wcs` (a gwcs object) from the ASDF extension. Its text is edited in
place: the pole of the native-to-celestial rotation and the copies of CRVAL1 and CRVAL2 are the only numbers concerned.
"""

import re

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from cubes import Cube, celestial_wcs

OFFSET_KEYS = ("NAV_DRA", "NAV_DDEC")
_ORIGINAL_KEYS = ("NAV_CRV1", "NAV_CRV2")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_ROTATION = re.compile(
    rf"direction: native2celestial\b(?:(?!- !).)*?\bphi: ({_NUMBER})(?:(?!- !).)*?\btheta: ({_NUMBER})", re.S
)


def applied_offset(cube: Cube) -> tuple[float, float]:
    """The offset in RA and Dec [arcsec on the sky] that an earlier navigation has taken off this cube's WCS."""
    ra_offset, dec_offset = (float(cube.sci_header.get(key, 0.0)) for key in OFFSET_KEYS)
    return ra_offset, dec_offset


def original_wcs(cube: Cube) -> WCS:
    """The sky WCS that a cube came with, whatever offset has been taken off it since."""
    header = cube.sci_header.copy()
    for key, original in zip(("CRVAL1", "CRVAL2"), _ORIGINAL_KEYS, strict=True):
        header[key] = header.get(original, header[key])
    return celestial_wcs(header)


def set_offset(cube: Cube, ra_offset: float, dec_offset: float) -> bool:
    """Take an offset off the cube's original WCS, in the SCI header and in the ASDF extension.

    Parameters
    ----------
    cube
        Changed in place. An offset that was applied before is undone first.
    ra_offset, dec_offset
        By how much the original WCS reads too high [arcsec on the sky]; 0, 0 restores it.

    Returns
    -------
    bool
        False if the ASDF extension has a WCS that could not be changed along.
    """
    header = cube.sci_header
    before = header["CRVAL1"], header["CRVAL2"]
    ra, dec = (header.get(key, value) for key, value in zip(_ORIGINAL_KEYS, before, strict=True))
    if ra_offset or dec_offset:
        after = (ra - ra_offset / 3600 / np.cos(np.radians(dec))) % 360, dec - dec_offset / 3600
        header[OFFSET_KEYS[0]] = (ra_offset, "[arcsec] on sky, taken off CRVAL1")
        header[OFFSET_KEYS[1]] = (dec_offset, "[arcsec] taken off CRVAL2")
        header[_ORIGINAL_KEYS[0]] = (ra, "[deg] CRVAL1 before that")
        header[_ORIGINAL_KEYS[1]] = (dec, "[deg] CRVAL2 before that")
    else:
        after = ra, dec
        for key in (*OFFSET_KEYS, *_ORIGINAL_KEYS):
            header.remove(key, ignore_missing=True)
    if after == before:
        return True
    header["CRVAL1"], header["CRVAL2"] = float(after[0]), float(after[1])
    return _shift_asdf(cube.hdul, before, after)


def _shift_asdf(hdul: fits.HDUList, before: tuple[float, float], after: tuple[float, float]) -> bool:
    if "ASDF" not in hdul:
        return True
    try:
        text, blocks = _split_asdf(np.asarray(hdul["ASDF"].data["ASDF_METADATA"][0]).tobytes())
    except (ValueError, KeyError, IndexError, TypeError):
        # Damaged: no table, no text or no end of it.
        return False
    for key, value in zip(("crval1", "crval2"), after, strict=True):
        text = re.sub(rf"\b{key}: {_NUMBER}", f"{key}: {float(value)!r}", text)
    if "!<tag:stsci.edu:gwcs/wcs-" in text:
        matches = [
            m for m in _ROTATION.finditer(text) if np.allclose([float(m[1]), float(m[2])], before, rtol=0, atol=1e-9)
        ]
        if len(matches) != 1:
            return False
        start, end = matches[0].span()
        ra, dec = (float(value) for value in after)
        rotation = re.sub(rf"\bphi: {_NUMBER}", f"phi: {ra!r}", text[start:end])
        rotation = re.sub(rf"\btheta: {_NUMBER}", f"theta: {dec!r}", rotation)
        text = text[:start] + rotation + text[end:]
    data = np.frombuffer(text.encode() + blocks, np.uint8)[None, :]
    column = fits.Column(name="ASDF_METADATA", format=f"{data.size}B", array=data)
    hdul["ASDF"] = fits.BinTableHDU.from_columns([column], name="ASDF")
    return True


def _split_asdf(content: bytes) -> tuple[str, bytes]:
    # An ASDF file is YAML text, then binary blocks, then an optional index of where those are, which a change of the
    # text's length would make wrong: it is left out.
    end = content.index(b"\n...\n") + 5
    return content[:end].decode(), content[end:].split(b"#ASDF BLOCK INDEX")[0]
