"""What the pictures of a cube show, as numbers: spectra, images, brightness temperature, what the corrections did.

In: arrays (wavelength, y, x) with NaN where there is no value, and headers. Out: arrays and lines of text. Nothing here
draws; `summary_plots` and `summary_animation` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import constants, units
from astropy.io import fits
from scipy.ndimage import median_filter

from cubes import Cube

# Radiance of one MJy/sr [W m-2 Hz-1 sr-1].
_MEGAJANSKY = 1e-20
# A step in wavelength this many times the usual one is a gap, across which no line is drawn.
_GAP_STEPS = 3


def summed_image(sci: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """Mean over wavelength of the planes, each divided by its mean brightness, so that none outweighs the others.

    Parameters
    ----------
    sci
        (wavelength, y, x), NaN where there is no value.
    reference
        Of the same shape; the cube of which the planes' brightness is taken, by default `sci` itself.

    Returns
    -------
    numpy.ndarray
        (y, x), NaN where no plane has a value.
    """
    level = nanmean(np.abs(sci if reference is None else reference), axis=(1, 2), keepdims=True)
    return nanmean(sci / np.where(level > 0, level, 1), axis=0)


def mean_spectrum(sci: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the field and over its brightest tenth.

    Parameters
    ----------
    sci
        (wavelength, y, x), NaN where there is no value.

    Returns
    -------
    field, brightest : numpy.ndarray
        (wavelength,) each, without spikes (see `without_spikes`); NaN where a plane is empty.
    """
    flat = without_spikes(sci).reshape(len(sci), -1)
    order = summed_image(sci).ravel()
    seen = np.flatnonzero(np.isfinite(order))
    if seen.size == 0:
        return np.full(len(sci), np.nan), np.full(len(sci), np.nan)
    brightest = seen[order[seen] >= np.quantile(order[seen], 0.9)]
    return nanmean(flat[:, seen], axis=1), nanmean(flat[:, brightest], axis=1)


def without_spikes(sci: np.ndarray, limit: float = 20.0) -> np.ndarray:
    """Leave out values that stand out from the two neighbouring planes, unless the whole field does.

    Parameters
    ----------
    sci
        (wavelength, y, x), NaN where there is no value.
    limit
        In units of the spaxel's own scatter about the median of three planes.

    Returns
    -------
    numpy.ndarray
        A copy with NaN for spikes. A narrow line stays: it stands out by the same share of the brightness everywhere.
    """
    if len(sci) < 3:
        return sci.copy()
    before, middle, after = sci[:-2], sci[1:-1], sci[2:]
    median = np.fmax(np.fmin(before, after), np.fmin(np.fmax(before, after), middle))
    excess = middle - median
    brightness = nanmean(sci, axis=0)
    seen = np.isfinite(brightness)
    bright = seen & (brightness > 0)
    bright &= brightness >= (np.median(brightness[seen]) if seen.any() else 0)
    if bright.any():
        share = nanmedian(excess[:, bright] / brightness[bright])
        excess = excess - np.nan_to_num(share)[:, None, None] * brightness
    deviation = np.abs(excess)
    scatter = 1.4826 * nanmedian(np.where(deviation > 0, deviation, np.nan).reshape(len(deviation), -1).T)
    cleaned = sci.copy()
    cleaned[1:-1][deviation > limit * scatter.reshape(sci.shape[1:])] = np.nan
    return cleaned


def range_images(sci: np.ndarray, wavelength: np.ndarray, count: int) -> tuple[np.ndarray, list[tuple[float, float]]]:
    """Images in `count` wavelength ranges with the same number of planes.

    Returns
    -------
    images : numpy.ndarray
        (count, y, x) mean surface brightness, NaN where a range has no value.
    ranges : list of (float, float)
        First and last wavelength of each [um].
    """
    parts = [part for part in np.array_split(np.arange(len(sci)), count) if part.size]
    images = np.stack([nanmean(sci[part], axis=0) for part in parts])
    return images, [(float(wavelength[part[0]]), float(wavelength[part[-1]])) for part in parts]


def nanmean(values: np.ndarray, axis: Any, keepdims: bool = False) -> np.ndarray:
    """Mean along one or several axes without NaN; NaN where nothing is left, without `np.nanmean`'s warning."""
    valid = np.isfinite(values)
    count = valid.sum(axis=axis, keepdims=keepdims)
    total = np.where(valid, values, 0).sum(axis=axis, keepdims=keepdims, dtype=float)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def nanmedian(values: np.ndarray) -> np.ndarray:
    """Median of each row without NaN; NaN where nothing is left."""
    # Sorting puts NaN last; the middle of the valid ones is then found by counting.
    ordered = np.sort(values, axis=1)
    count = np.isfinite(values).sum(axis=1)
    rows = np.arange(len(values))
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, values.shape[1] - 1)
    return np.where(count > 0, (ordered[rows, low] + ordered[rows, high]) / 2, np.nan)


def invalid_fractions(sci: np.ndarray, count: int) -> np.ndarray:
    """Share of the field's voxels without a value, in each of the ranges of `range_images`.

    Parameters
    ----------
    sci
        (wavelength, y, x), NaN where there is no value.
    count
        Number of ranges.

    Returns
    -------
    numpy.ndarray
        One number per range, of the spaxels that have a value at any wavelength; 1 where there is no such spaxel.
    """
    valid = np.isfinite(sci)
    field = max(int(valid.any(axis=0).sum()), 1)
    per_plane = valid.sum(axis=(1, 2))
    parts = [part for part in np.array_split(np.arange(len(sci)), count) if part.size]
    return np.array([1 - per_plane[part].mean() / field for part in parts])


def invalid_spaxels(sci: np.ndarray) -> tuple[np.ndarray, int]:
    """Number of spaxels without a value at each wavelength, and of those that have one at any."""
    valid = np.isfinite(sci)
    field = int(valid.any(axis=0).sum())
    return field - valid.sum(axis=(1, 2)), field


def with_gaps(wavelength: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A spectrum with NaN put in where wavelengths are missing, so that no line is drawn across.

    Parameters
    ----------
    wavelength, values
        (n,) each, wavelengths rising.

    Returns
    -------
    wavelength, values : numpy.ndarray
        With one more element in the middle of each step that is more than three times the median of its neighbours'.
    """
    steps = np.diff(wavelength)
    if steps.size < 3:
        return wavelength, values
    gaps = np.flatnonzero(steps > _GAP_STEPS * median_filter(steps, 11, mode="nearest"))
    middles = (wavelength[gaps] + wavelength[gaps + 1]) / 2
    return np.insert(wavelength, gaps + 1, middles), np.insert(np.asarray(values, float), gaps + 1, np.nan)


def robust_range(values: np.ndarray, percentiles: tuple[float, float] = (1, 99.5)) -> tuple[float, float]:
    """Lowest and highest value to show: percentiles, from 0 on where there is hardly anything below.

    Parameters
    ----------
    values
        Any shape; NaN is left out.
    percentiles
        Of all values.

    Returns
    -------
    low, high : float
        low < high; 0 and 1 where there is no value.
    """
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(values, percentiles))
    low = min(low, 0.0) if low < 0.2 * high else low
    return low, high if high > low else low + 1


# --- units ----------------------------------------------------------------------------------------------------------


def surface_brightness_factor(unit: str, wavelength: np.ndarray) -> np.ndarray | None:
    """By what to multiply values to get MJy/sr, for each wavelength.

    Parameters
    ----------
    unit
        Text of BUNIT: 'MJy/sr', 'mJy/arcsec2', 'W / (m2 um sr)', ...
    wavelength
        (n,) [um].

    Returns
    -------
    numpy.ndarray or None
        (n,); None where the unit is no surface brightness.
    """
    try:
        per_solid_angle = units.Unit(unit) * units.sr
        factor = per_solid_angle.to(units.MJy, equivalencies=units.spectral_density(wavelength * units.um))
    except (units.UnitConversionError, units.UnitTypeError, ValueError, TypeError):
        return None
    return np.broadcast_to(np.asarray(factor, float), np.shape(wavelength))


def brightness_temperature(radiance: np.ndarray, wavelength: np.ndarray) -> np.ndarray:
    """Temperature of the black body that is as bright [K], by Planck's law with the SI's exact constants.

    Parameters
    ----------
    radiance
        [MJy/sr]. Negative values, which noise makes, keep their sign: minus the temperature of the opposite.
    wavelength
        [um], of a shape that broadcasts with `radiance`.

    Returns
    -------
    numpy.ndarray
        T = h nu / (k ln(1 + 2 h nu^3 / (c^2 B))); 0 where the radiance is 0, NaN where it is NaN.
    """
    frequency = constants.c.value / (np.asarray(wavelength, float) * 1e-6)
    power = np.abs(np.asarray(radiance, float)) * _MEGAJANSKY
    planck, boltzmann, light = constants.h.value, constants.k_B.value, constants.c.value
    with np.errstate(divide="ignore"):
        temperature = planck * frequency / (boltzmann * np.log1p(2 * planck * frequency**3 / (light**2 * power)))
    return np.copysign(temperature, radiance)


# --- what the corrections did ---------------------------------------------------------------------------------------


def correction_notes(header: fits.Header) -> list[str]:
    """One line for each correction that the primary header notes, with the parameters that were used.

    Parameters
    ----------
    header
        With `REDUCTn` and, after each, the `HIERARCH <STEP> <PARAMETER>` cards of `Cube.add_note`.

    Returns
    -------
    list of str
        'Despiked: nsigma 7.0, box_size 9, ...', in the order of the corrections; empty where there was none.
    """
    lines: list[str] = []
    parameters: list[str] = []
    for card in header.cards:
        if card.keyword.startswith("REDUCT") and card.keyword[6:].isdigit():
            lines.append(str(card.value))
            parameters = []
        elif lines and " " in card.keyword and not card.keyword.endswith(" VERSION") and card.value != "None":
            value = f"{card.value:g}" if isinstance(card.value, float) else str(card.value)
            parameters.append(f"{card.keyword.split(' ', 1)[1].lower()} {value}")
            lines[-1] = f"{lines[-1].partition(': ')[0]}: {', '.join(parameters)}"
    return lines


@dataclass(frozen=True)
class CorrectionSummary:
    """What one correction did, as an image and a spectrum.

    Attributes
    ----------
    title
        What is shown.
    image
        (y, x), NaN where there is no value.
    image_label, spectrum_label
        What the numbers are.
    spectrum
        (wavelength,).
    centre
        Value in the middle of the colours of a quantity that goes both ways; None for one that does not.
    """

    title: str
    image: np.ndarray
    image_label: str
    spectrum: np.ndarray
    spectrum_label: str
    centre: float | None = None


def correction_summaries(cube: Cube) -> list[CorrectionSummary]:
    """Summaries of the corrections that left an extension: NGROUPS, FLAT, SPIKES; none for the others.

    Parameters
    ----------
    cube
        The cube with its extensions.
    """
    extensions = {name: cube.hdul[name].data for name in ("NGROUPS", "FLAT", "SPIKES") if name in cube.hdul}
    seen = np.isfinite(cube.sci).any(axis=0)
    makers = {"NGROUPS": _groups_summary, "FLAT": _flat_summary, "SPIKES": _spikes_summary}
    return [makers[name](data, seen) for name, data in extensions.items() if np.shape(data) == cube.shape]


def _groups_summary(groups: np.ndarray, seen: np.ndarray) -> CorrectionSummary:
    used = np.where(groups > 0, groups, np.nan).astype(float)
    return CorrectionSummary(
        title="desaturation: groups used",
        image=nanmean(used, axis=0),
        image_label="mean number of groups",
        spectrum=nanmean(used, axis=(1, 2)),
        spectrum_label="mean number of groups",
    )


def _flat_summary(flat: np.ndarray, seen: np.ndarray) -> CorrectionSummary:
    values = np.where(seen & (flat > 0), flat, np.nan).astype(float)
    return CorrectionSummary(
        title="flat: values divided by it",
        image=nanmean(values, axis=0),
        image_label="mean flat",
        spectrum=100 * np.sqrt(nanmean((values - 1) ** 2, axis=(1, 2))),
        spectrum_label="rms of flat - 1 [%]",
        centre=1.0,
    )


def _spikes_summary(spikes: np.ndarray, seen: np.ndarray) -> CorrectionSummary:
    marked = spikes > 0
    return CorrectionSummary(
        title=f"despike: {int(marked.sum())} spikes removed",
        image=np.where(seen, marked.sum(axis=0), np.nan),
        image_label="spikes per spaxel",
        spectrum=marked.sum(axis=(1, 2)).astype(float),
        spectrum_label="spikes per plane",
    )


def observation_words(header: fits.Header) -> str:
    """Target, date, instrument and band of a cube in a few words.

    Parameters
    ----------
    header
        The primary header.
    """
    target = header.get("TARGPROP") or header.get("TARGNAME") or "unknown target"
    keys = ("NAVTIME", "DATE-AVG", "DATE-BEG", "DATE-OBS")
    time = str(next((header[key] for key in keys if header.get(key)), ""))[:19]
    words = [str(target), f"{time.replace('T', ' ')} UTC" if time else "", str(header.get("INSTRUME", ""))]
    if header.get("INSTRUME") == "MIRI":
        words.append(f"channel {header.get('CHANNEL', '?')} {str(header.get('BAND', '')).lower()}")
    else:
        words.append(f"{header.get('GRATING', '')} {header.get('FILTER', '')}".strip())
    return "   ".join(word for word in words if word)


def dither_label(cube: Cube) -> str:
    """'dither 2', or 'combined' where the cube was made of several dithers."""
    positions: Sequence[Any] = ()
    if "HDRTAB" in cube.hdul and "PATT_NUM" in (cube.hdul["HDRTAB"].columns.names or []):
        positions = np.unique(cube.hdul["HDRTAB"].data["PATT_NUM"])
    if len(positions) > 1:
        return "combined"
    return f"dither {cube.header.get('PATT_NUM') or 1}"
