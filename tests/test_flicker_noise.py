"""1/f noise of NIRSpec's detectors by the pixels between the slices: what it was is found, light is left alone."""

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import uniform_filter1d

from errors import OptionError
from flicker_noise import clean_rate_file, fit_flicker_noise
from simulate.nirspec_detector import flicker_noise

LINES = 256
WHITE = 8.0  # about as in rates: 2.5 times the 1/f noise


def expose(seed, detector="NRS1", scale=1.0):
    """1/f noise, white noise and a smooth glow in the first lines of a detector; the pixels between 30 slices."""
    random = np.random.default_rng(seed)
    noise = flicker_noise(detector, random, scale)[:, :LINES]
    y, x = np.mgrid[: len(noise), :LINES]
    glow = 20 + 10 * np.cos(y / 500) + x / 100
    unlit = ((y - 0.05 * x) % 68 > 38) & ((y < 922) | (y > 1116))
    return noise, WHITE * random.standard_normal(noise.shape) + glow, unlit


def stripes(image, lit):
    """Rms of the means of the lit pixels of each line about those of their neighbourhood."""
    means = np.nanmean(np.where(lit, image, np.nan), axis=0)
    return (means - uniform_filter1d(means, 101)).std()


@pytest.mark.parametrize(("seed", "detector"), [(1, "NRS1"), (2, "NRS2"), (3, "NRS1")])
def test_what_the_medians_of_lines_leave_falls_and_what_is_lit_does_not_matter(seed, detector):
    noise, rest, unlit = expose(seed, detector)
    medians = np.nanmedian(np.where(unlit, noise + rest, np.nan), axis=0)
    fitted = fit_flicker_noise(noise + rest - medians, unlit)
    assert 4 * stripes(noise - medians - fitted, ~unlit) < stripes(noise, ~unlit)
    assert stripes(noise - medians - fitted, ~unlit) < 0.85 * stripes(noise - medians, ~unlit)
    # Along a line, too.
    within = [np.std((part - part.mean(axis=0))[~unlit]) for part in (noise - fitted, noise)]
    assert within[0] < 0.95 * within[1]
    planet = np.where(unlit, 0, 1e5)
    assert np.array_equal(fit_flicker_noise(noise + rest - medians + planet, unlit), fitted)


def test_noise_that_outputs_share_is_found_in_pixels_of_the_others():
    """Every other output reads in the opposite direction: what one sees at its start, the next sees at its end."""
    random = np.random.default_rng(6)
    steps = np.repeat(random.standard_normal((16, LINES)), 32, axis=0)
    noise = np.concatenate([steps, steps[::-1], steps, steps[::-1]])
    unlit = np.ones(noise.shape, bool)
    unlit[512:1024] = False
    fitted = fit_flicker_noise(noise + 0.5 * random.standard_normal(noise.shape), unlit)
    assert (noise - fitted)[512:1024].std() < 0.3 * noise[512:1024].std()


def test_without_noise_of_this_kind_next_to_nothing_is_taken_off():
    _, rest, unlit = expose(4)
    fitted = fit_flicker_noise(rest, unlit)
    # A hundredth of the white noise; the glow stays.
    assert fitted.std() < 0.01 * WHITE and abs(fitted.mean()) < 0.01 * WHITE


def test_bad_pixels_and_hits_do_not_matter():
    noise, rest, unlit = expose(4)
    random = np.random.default_rng(4)
    fitted = fit_flicker_noise(noise + rest, unlit)
    struck = noise + rest
    struck[random.random(noise.shape) < 1e-3] += 1e4
    struck[random.random(noise.shape) < 1e-2] = np.nan
    changed = fit_flicker_noise(struck, unlit)
    assert np.isfinite(changed).all()
    assert (noise - changed).std() < 1.02 * (noise - fitted).std()


def test_a_rate_image_loses_its_stripes_and_keeps_all_else(tmp_path):
    noise, rest, unlit = expose(5)
    image = (noise + rest).astype(np.float32)
    dq = np.zeros(image.shape, np.uint32)
    dq[7, 9], image[7, 9] = 1, np.nan
    arrays = {"SCI": image, "ERR": np.full_like(image, WHITE), "DQ": dq}
    hdus = [fits.ImageHDU(array, name=name) for name, array in arrays.items()]
    path = tmp_path / "a_rate.fits"
    primary = fits.PrimaryHDU()
    primary.header["INSTRUME"] = "NIRSPEC"
    fits.HDUList([primary, *hdus]).writeto(path)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.array([unlit, unlit], np.float32), name="SCI")]).writeto(
        tmp_path / "m.fits"
    )
    facts = clean_rate_file(path, tmp_path / "m.fits")
    with fits.open(path) as hdul:
        removed = image - hdul["SCI"].data
        np.testing.assert_allclose(removed[dq == 0], fit_flicker_noise(image, unlit)[dq == 0], atol=1e-4)
        assert np.isnan(hdul["SCI"].data[7, 9])
        assert np.array_equal(hdul["ERR"].data, arrays["ERR"]) and np.array_equal(hdul["DQ"].data, dq)
        assert hdul[0].header["REDUCT1"] == "1/f noise fitted along lines"
        assert hdul[0].header["FLICKER_NOISE RMS"] == pytest.approx(np.nanstd(removed), rel=0.01)
    assert "1/f noise of" in facts["notes"][0]


def test_detectors_that_are_read_in_another_order_are_left_alone(tmp_path):
    noise, _, unlit = expose(5)
    for name, array in (("a_rate.fits", noise), ("m.fits", unlit)):
        primary, image = fits.PrimaryHDU(), fits.ImageHDU(array.astype(np.float32), name="SCI")
        primary.header["INSTRUME"] = "MIRI"
        fits.HDUList([primary, image]).writeto(tmp_path / name)
    before = (tmp_path / "a_rate.fits").read_bytes()
    assert clean_rate_file(tmp_path / "a_rate.fits", tmp_path / "m.fits") == {}
    assert (tmp_path / "a_rate.fits").read_bytes() == before


def test_without_unlit_pixels_or_noise_nothing_is_taken_off():
    image = np.random.default_rng(5).standard_normal((128, 20))
    assert np.all(fit_flicker_noise(image, np.zeros(image.shape, bool)) == 0)
    for empty in (np.nan, 1.0):
        assert np.all(fit_flicker_noise(np.full_like(image, empty), np.ones(image.shape, bool)) == 0)


def test_what_is_no_full_detector_is_refused():
    with pytest.raises(OptionError, match="full detector"):
        fit_flicker_noise(np.zeros((100, 20)), np.ones((100, 20), bool))
    with pytest.raises(OptionError, match="full detector"):
        fit_flicker_noise(np.zeros((128, 20)), np.ones((128, 21), bool))
