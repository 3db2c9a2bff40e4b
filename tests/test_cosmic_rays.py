"""Cosmic rays on the detector: what is put in is found and mended, and nothing that came through the telescope is."""

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import binary_dilation

import cosmic_rays
from cosmic_rays import find_cosmic_rays, mend_cosmic_rays_file, read_exposure_file, slice_numbers
from cubes import DQ
from errors import FileFormatError, OptionError
from spectral_neighbours import expect

ROWS, SLICES, WIDTH, GAP = 240, 4, 16, 3


def lay_out_slices():
    one = np.concatenate([np.zeros(WIDTH, int), np.full(GAP, -1)])
    columns = np.concatenate([np.where(one < 0, -1, number) for number in range(SLICES)])
    return np.tile(columns, (ROWS, 1))


def observe(seed, count=4):
    """Dithers of a turning planet with lines, a limb, belts and a moving spot, fringes and stripes; images, errors."""
    random = np.random.default_rng(seed)
    slices = lay_out_slices()
    y, x = np.mgrid[:ROWS, : slices.shape[1]]
    fringes = 1 + 0.03 * np.sin(2 * np.pi * y / 9.3 + random.uniform(0, 6.28, slices.shape[1]))
    stripes = 1 + 0.02 * random.standard_normal(SLICES)[np.maximum(slices, 0)]
    lines = random.uniform(0, ROWS, 25), random.uniform(0.1, 0.8, 25)
    images, errors = [], []
    for dither in range(count):
        along = (x % (WIDTH + GAP)) + random.uniform(-3, 3)
        across = slices + random.uniform(-0.5, 0.5)
        limb = 1 / (1 + np.exp((np.hypot(along - 2, 3 * across) - 12) / 0.8))
        spot = 1 - 0.3 * np.exp(-((along - 6 - 0.7 * dither) ** 2 + (3 * across - 3) ** 2) / 4)
        depth = 0.6 + 0.4 * limb + 0.05 * np.cos(along)
        spectrum = 1 + 0.2 * np.sin(y / 60)
        for place, strength in zip(*lines, strict=True):
            # Lines of two pixels, shifted by rotation and by the tilt of the slice's image.
            shifted = (y - place - 0.1 * (x % (WIDTH + GAP)) - 0.02 * along) / 0.85
            spectrum = spectrum * (1 - strength * depth * np.exp(-(shifted**2) / 2))
        scene = 4000 * spectrum * limb * spot * fringes * stripes + 10
        error = np.sqrt(scene / 10 + 4)
        images.append(np.where(slices >= 0, scene + error * random.standard_normal(scene.shape), np.nan))
        errors.append(error)
    return images, errors, slices


def strike(image, error, slices, random, heights):
    """Add hits that leave a little in the next column and row; which pixels were hit, and their heights in sigma."""
    inside = np.argwhere(slices >= 0)
    struck = image.copy()
    place = tuple(inside[random.choice(len(inside), heights.size, replace=False)].T)
    for (y, x), height in zip(zip(*place, strict=True), heights, strict=True):
        struck[y, x] += height * error[y, x]
        for j, i, most in ((0, 1, 0.5), (1, 0, 0.3)):
            if y + j < ROWS and x + i < image.shape[1]:
                struck[y + j, x + i] += random.uniform(0, most) * height * error[y, x]
    return struck, place


@pytest.mark.parametrize("seed", [104, 105, 106])
def test_hits_are_found_and_mended_and_nothing_else_is(seed):
    images, errors, slices = observe(seed)
    random = np.random.default_rng(seed)
    heights = 10 ** random.uniform(np.log10(8), 3, 60)
    struck, place = strike(images[0], errors[0], slices, random, heights)
    raised = struck != images[0]
    grown = np.sqrt(errors[0] ** 2 + np.where(raised, struck - images[0], 0) / 10)
    hits, expected, expected_error = find_cosmic_rays(struck, grown, slices, images[1:], errors[1:])
    assert hits[place].mean() > 0.9 and hits[place][heights > 30].mean() > 0.95
    near = binary_dilation(raised, np.ones((3, 3)))
    assert np.mean(hits[(slices >= 0) & ~near]) < 1e-4 and np.mean(hits[(slices >= 0) & near & ~raised]) < 0.03
    after = np.where(hits, expected, struck)
    error = np.where(hits, expected_error, grown)
    before = np.sum(np.abs(struck - images[0])[slices >= 0] > 5 * grown[slices >= 0])
    assert np.sum(np.abs(after - images[0])[slices >= 0] > 5 * error[slices >= 0]) <= before / 20
    pulls = ((expected - images[0]) / expected_error)[hits]
    assert 0.4 < np.sqrt(np.mean(np.clip(pulls, -5, 5) ** 2)) < 1.8


@pytest.mark.parametrize("seed", [111, 112])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_moving_planet_without_hits_is_left_alone(seed, count):
    images, errors, slices = observe(seed, count)
    hits, *_ = find_cosmic_rays(images[0], errors[0], slices, images[1:], errors[1:])
    assert hits.sum() <= 1e-3 * np.sum(slices >= 0)


@pytest.mark.parametrize("seed", [181, 182, 183])
def test_hits_in_the_other_exposures_are_none_in_this(seed):
    images, errors, slices = observe(seed)
    random = np.random.default_rng(seed)
    others = [
        strike(image, error, slices, random, 10 ** random.uniform(1, 3, 30))[0]
        for image, error in zip(images[1:], errors[1:], strict=True)
    ]
    hits, *_ = find_cosmic_rays(images[0], errors[0], slices, others, errors[1:])
    assert hits.sum() <= 2e-4 * np.sum(slices >= 0)


def test_differences_to_what_is_expected_have_the_error_that_is_claimed():
    """Of pixels in the fit and of those left out of it, whose expectation has the error of the coefficients besides."""
    random = np.random.default_rng(7)
    shape = (400, 40)
    others = [100 * random.standard_normal(shape) for _ in range(8)]
    errors = random.uniform(1, 3, shape)
    values = 50 + sum(0.3 * other for other in others) + errors * random.standard_normal(shape)
    fitted = random.random(shape) > 0.2
    expected, gain = expect(values, [(other, np.zeros(shape)) for other in others], errors, fitted)
    pulls = (values - expected) / (errors * gain)
    for chosen in (fitted, ~fitted):
        # Coefficients are interpolated between windows, which the errors leave out of account.
        assert 0.93 < pulls[chosen].std() < 1.07


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("height", [10, 100, 1000])
def test_an_unresolved_line_that_one_dither_alone_sees_is_no_hit(phase, height):
    """A point source passes by with a line of the instrument's width: nothing like it is in the other dithers."""
    images, errors, slices = observe(121)
    y, x = np.mgrid[:ROWS, : slices.shape[1]]
    line = np.zeros_like(images[0])
    for row in (30, 120, 200):
        line += np.exp(-(((y - row - phase) / 0.85) ** 2 + ((x - 27 - phase) / 0.6) ** 2) / 2)
    seen = images[0] + height * np.nanmedian(errors[0]) * line
    before, *_ = find_cosmic_rays(images[0], errors[0], slices, images[1:], errors[1:])
    hits, *_ = find_cosmic_rays(seen, errors[0], slices, images[1:], errors[1:])
    assert not np.any(hits & ~before & (line > 0.05))


def test_an_exact_combination_gives_back_the_values_that_were_hit():
    """Without noise the expectation is the value itself, wherever the hit is: left out, it can't bend the fit."""
    random = np.random.default_rng(5)
    slices = lay_out_slices()
    others = [1000 + 100 * random.standard_normal(slices.shape) for _ in range(3)]
    truth = 30 + 0.5 * others[0] - 0.2 * others[1] + 0.7 * others[2]
    error = np.full(slices.shape, 2.0)
    place = ([0, 5, 100, 100, 239, 57], [0, 15, 19, 40, 53, 72])
    struck = truth.copy()
    struck[place] += [30, 50, 1000, 1e5, 200, 40]
    hits, expected, expected_error = find_cosmic_rays(struck, error, slices, others, [0.01 * error] * 3)
    assert sorted(zip(*np.nonzero(hits), strict=True)) == sorted(zip(*place, strict=True))
    np.testing.assert_allclose(expected[hits], truth[hits], atol=1.0)
    assert np.all((expected_error[hits] > 2) & (expected_error[hits] < 6)) and np.all(np.isnan(expected[~hits]))


def test_hits_beside_bad_pixels_are_found_and_bad_pixels_are_not():
    images, errors, slices = observe(131)
    images = [image.copy() for image in images]
    bad = np.random.default_rng(1).random(slices.shape) < 0.02
    for image in images:
        image[bad] = np.nan
    hits, *_ = find_cosmic_rays(images[0], errors[0], slices, images[1:], errors[1:])
    assert not np.any(hits & bad) and hits.sum() <= 1e-3 * np.sum(slices >= 0)
    beside = np.argwhere(np.roll(bad, 1, axis=1) & ~bad & np.isfinite(images[0]))[::5]
    place = tuple(beside.T)
    images[0][place] += 40 * errors[0][place]
    hits, *_ = find_cosmic_rays(images[0], errors[0], slices, images[1:], errors[1:])
    assert hits[place].mean() > 0.8


def write_exposure(path, image, error, slices, kind="NRS_IFU"):
    """A NIRSpec exposure as stage 2 writes it, its dispersion along x."""
    dq = np.where(np.isfinite(image), 0, DQ.DO_NOT_USE).astype(np.uint32)
    arrays = {"SCI": image, "ERR": error, "VAR_POISSON": error**2, "VAR_RNOISE": error**2 / 4}
    hdus = [fits.ImageHDU(array.T.astype(np.float32), name=name) for name, array in arrays.items()]
    hdus += [fits.ImageHDU(dq.T, name="DQ"), fits.ImageHDU((slices.T + 1).astype(np.int32), name="REGIONS")]
    hdus[0].header["DISPAXIS"] = 1
    fits.HDUList([fits.PrimaryHDU(header=fits.Header({"EXP_TYPE": kind})), *hdus]).writeto(path)
    return path


def test_a_file_keeps_all_that_was_not_hit(tmp_path, capsys):
    images, errors, slices = observe(141)
    heights = np.full(20, 50.0)
    struck, place = strike(images[0], errors[0], slices, np.random.default_rng(2), heights)
    names = [tmp_path / f"{number}_cal.fits" for number in range(4)]
    for name, image, error in zip(names, [struck, *images[1:]], errors, strict=True):
        write_exposure(name, image, error, slices)
    out = tmp_path / "0_crf.fits"
    assert cosmic_rays.main([*map(str, names), str(out)]) == 0
    assert "by comparison with 3 other exposures" in capsys.readouterr().out
    with fits.open(names[0]) as before, fits.open(out) as after:
        hits = after["DQ"].data.T != before["DQ"].data.T
        assert hits[place].all() and hits.sum() < 80
        assert np.all(after["DQ"].data.T[hits] == DQ.OUTLIER | DQ.FLUX_ESTIMATED)
        for name in ("SCI", "ERR", "VAR_POISSON", "VAR_RNOISE", "REGIONS"):
            old, new = before[name].data.T, after[name].data.T
            assert np.array_equal(old[~hits], new[~hits], equal_nan=True), name
        error = after["ERR"].data.T
        assert np.median(np.abs(after["SCI"].data.T - images[0])[place] / error[place]) < 1.5
        np.testing.assert_allclose(after["VAR_POISSON"].data.T[hits], error[hits] ** 2, rtol=1e-4)
        assert after[0].header["REDUCT1"] == "Cosmic rays mended"
        assert after[0].header["COSMIC_RAYS HITS"] == hits.sum()


def test_without_others_an_exposure_stays_as_it_is_and_says_so(tmp_path):
    images, errors, slices = observe(151, 1)
    path = write_exposure(tmp_path / "a_cal.fits", images[0], errors[0], slices)
    facts = mend_cosmic_rays_file(path, tmp_path / "a_crf.fits")
    assert facts["hits"] == 0 and "no other exposure" in facts["warnings"][0]
    with fits.open(path) as before, fits.open(tmp_path / "a_crf.fits") as after:
        assert all(np.array_equal(before[k].data, after[k].data, equal_nan=True) for k in range(1, len(before)))


def test_what_cannot_be_compared_is_refused(tmp_path):
    images, errors, slices = observe(161, 2)
    with pytest.raises(OptionError, match="one other exposure"):
        find_cosmic_rays(images[0], errors[0], slices, [], [])
    with pytest.raises(OptionError, match="nsigma"):
        find_cosmic_rays(images[0], errors[0], slices, images[1:], errors[1:], nsigma=0)
    with pytest.raises(OptionError, match="one shape"):
        find_cosmic_rays(images[0], errors[0], slices, [images[1][1:]], errors[1:])
    with pytest.raises(OptionError, match="as many errors"):
        find_cosmic_rays(images[0], errors[0], slices, images[1:], errors)
    path = write_exposure(tmp_path / "a_cal.fits", images[0], errors[0], slices, kind="MIR_IMAGE")
    with pytest.raises(FileFormatError, match="no calibrated IFU exposure"):
        mend_cosmic_rays_file(path, tmp_path / "a_crf.fits", [path])


def test_hits_on_a_real_detector_layout_are_mended(observation, tmp_path):
    """Hits of 5 to 1000 sigma put on a calibrated exposure of the MRS, as short ramps leave them."""
    from stdatamodels.jwst import datamodels

    first, *others = sorted((observation.root / "stage2").glob("*_crf.fits"))
    struck, mended = tmp_path / "a_cal.fits", tmp_path / "a_crf.fits"
    random = np.random.default_rng(3)
    with fits.open(first) as hdul:
        truth, error = hdul["SCI"].data.astype(float), hdul["ERR"].data.astype(float)
        # What lies between slices goes into no cube.
        inside = np.argwhere(np.isfinite(truth) & (slice_numbers(read_exposure_file(first)) >= 0))
        place = tuple(inside[random.choice(len(inside), 500, replace=False)].T)
        heights = 10 ** random.uniform(np.log10(5), 3, 500)
        hdul["SCI"].data[place] += heights * error[place]
        hdul.writeto(struck)
    facts = mend_cosmic_rays_file(struck, mended, others)
    with datamodels.open(mended) as model:
        assert isinstance(model, datamodels.IFUImageModel)
        off = np.abs(model.data - truth) > 5 * model.err
        touched = model.data != truth
    hit = np.zeros(truth.shape, bool)
    hit[place] = True
    assert np.sum(off & hit) <= 500 / 10
    assert np.sum(touched & ~hit & np.isfinite(truth)) < 1e-4 * np.isfinite(truth).sum()
    assert facts["hits"] > 450
