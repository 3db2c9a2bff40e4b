"""Choosing the groups of each pixel: on ramps with known rates, and in the real `Detector1Pipeline`."""

import json
import warnings

import numpy as np
import pytest
from astropy.io import fits
from conftest import simulate

from ramp_desaturation import (
    DO_NOT_USE,
    FLUX_ESTIMATED,
    SATURATED,
    choose_groups,
    find_ramp_onset,
    pedestals,
    remove_pedestals,
    stage1_steps,
)
from simulate import mrs_detector

SHAPE = (100, 120)
WELL = 40000.0
PEDESTALS = np.array([8000.0, 8010.0, 7990.0, 8005.0])


def make_ramps(groups=6, *, flagged_from=None, knee=0.85, first_frame=True, seed=0, integrations=1):
    """Ramps of DN per group from 100 to 60,000 that bend before the well; groups from `flagged_from` on are flagged."""
    random = np.random.default_rng(seed)
    rate = 10 ** random.uniform(2, 4.78, SHAPE)
    pedestal = np.tile(PEDESTALS, SHAPE[1] // 4)
    increments = random.poisson(np.broadcast_to(4 * rate, (integrations, groups, *SHAPE))) / 4
    charge = np.cumsum(increments, axis=1)
    bend = knee * WELL
    over = np.clip(charge - bend, 0, None)
    charge = np.where(charge > bend, bend + (WELL - bend) * np.tanh(over / (2 * (WELL - bend))), charge)
    data = (pedestal + charge + random.normal(0, 5, charge.shape)).astype(np.float32)
    groupdq = np.zeros(data.shape, np.uint8)
    if flagged_from is not None:
        above = np.logical_or.accumulate(data - pedestal > flagged_from, axis=1)
        groupdq[above] |= SATURATED
    if first_frame:
        groupdq[:, 0] |= DO_NOT_USE
        groupdq[:, -1] |= DO_NOT_USE
    return rate, data, groupdq, np.zeros(SHAPE, np.uint32)


def slopes(data, groupdq):
    """Mean step between good neighbouring groups of the first integration, NaN where there are none."""
    good = groupdq[0] == 0
    steps = np.where(good[1:] & good[:-1], np.diff(data[0], axis=0), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(steps, axis=0)


def expected_sigma(rate, pairs):
    return np.sqrt(rate / 4 / pairs + 2 * 25 / pairs**2)


def test_onset_is_found_where_ramps_bend():
    _, data, groupdq, pixeldq = make_ramps()
    onset = find_ramp_onset(data, groupdq, pixeldq)
    bend = PEDESTALS.mean() + 0.85 * WELL
    assert 0.93 * bend < onset < 1.05 * bend


def test_straight_ramps_have_no_onset():
    _, data, groupdq, pixeldq = make_ramps(knee=50.0)
    assert find_ramp_onset(data, groupdq, pixeldq) == np.inf
    before = groupdq.copy()
    chosen = choose_groups(data, groupdq, pixeldq, minimum_groups=2)
    np.testing.assert_array_equal(groupdq, before)
    assert chosen.newly_saturated == 0


def test_bent_groups_are_not_used_though_nothing_flagged_them():
    rate, data, groupdq, pixeldq = make_ramps()
    before = slopes(data, groupdq)
    saturating = (rate * 5 > 1.1 * WELL) & (rate * 2 < 0.75 * WELL)
    assert (np.abs(before[saturating] / rate[saturating] - 1) > 0.05).mean() > 0.5
    chosen = choose_groups(data, groupdq, pixeldq)
    after = slopes(data, groupdq)
    assert np.isfinite(after[saturating]).all()
    pull = (after - rate)[saturating] / expected_sigma(rate[saturating], 1)
    assert (np.abs(pull) < 4).mean() > 0.98
    assert np.abs(np.median(after[saturating] / rate[saturating]) - 1) < 5e-3
    assert chosen.newly_saturated >= saturating.sum()


def test_unsaturated_pixels_keep_their_flags():
    rate, data, groupdq, pixeldq = make_ramps()
    before = groupdq.copy()
    choose_groups(data, groupdq, pixeldq)
    faint = rate * 6 < 0.7 * WELL
    assert faint.sum() > 1000
    np.testing.assert_array_equal(groupdq[:, :, faint], before[:, :, faint])
    assert not pixeldq[faint].any()


def test_pixels_get_back_the_groups_that_they_need_and_no_more():
    rate, data, groupdq, pixeldq = make_ramps(flagged_from=0.8 * WELL, knee=50.0)
    groupdq[0, 0, 5, 5] |= 4
    whole = np.cumprod(groupdq[0] & SATURATED == 0, axis=0).sum(axis=0)
    chosen = choose_groups(data, groupdq, pixeldq, minimum_groups=2)
    good = (groupdq[0] & (SATURATED | DO_NOT_USE) == 0).sum(axis=0)
    assert (good[whole == 2] == 2).all()
    assert (pixeldq[whole == 2] & FLUX_ESTIMATED > 0).all()
    # Those with two good groups besides the first do without it.
    assert (groupdq[0, 0][whole >= 3] & DO_NOT_USE > 0).all()
    assert not pixeldq[whole >= 3].any()
    assert chosen.given_back == (whole == 2).sum()
    assert chosen.lost == (whole < 2).sum()
    assert (groupdq[0, 0][whole == 1] & DO_NOT_USE > 0).all()
    assert (np.abs(slopes(data, groupdq) / rate - 1)[whole == 2] < 0.03).mean() > 0.99


def test_single_groups_are_used_on_request_without_the_pedestal():
    rate, data, groupdq, pixeldq = make_ramps(flagged_from=0.8 * WELL, knee=50.0)
    whole = np.cumprod(groupdq[0] & SATURATED == 0, axis=0).sum(axis=0)
    before = np.diff(data, axis=1)
    found = remove_pedestals(data, groupdq, pixeldq)
    # Photon noise of two groups, median of 3,000 pixels.
    np.testing.assert_allclose(found[0], PEDESTALS, atol=4)
    np.testing.assert_allclose(np.diff(data, axis=1), before, atol=0.02)
    chosen = choose_groups(data, groupdq, pixeldq, minimum_groups=1)
    single = whole == 1
    assert single.sum() > 200
    assert chosen.one_group == single.sum()
    assert (groupdq[0, 0][single] == 0).all()
    assert (pixeldq[single] & FLUX_ESTIMATED > 0).all()
    pull = (data[0, 0] - rate)[single] / expected_sigma(rate[single], 1)
    assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.2


def test_cosmic_rays_are_not_taken_for_saturation():
    _, plain, plain_flags, _ = make_ramps(flagged_from=0.95 * WELL)
    _, struck, flags, pixeldq = make_ramps(flagged_from=0.95 * WELL)
    random = np.random.default_rng(3)
    hit = random.random(SHAPE) < 0.02
    charge = 10 ** random.uniform(2.3, 3.9, SHAPE) * hit
    group = random.integers(0, struck.shape[1], SHAPE)
    struck[0] += np.where(np.arange(struck.shape[1])[:, None, None] >= group, charge, 0).astype(np.float32)
    assert find_ramp_onset(struck, flags, pixeldq) == pytest.approx(
        find_ramp_onset(plain, plain_flags, pixeldq), rel=0.02
    )
    given = flags.copy()
    onset = choose_groups(struck, flags, pixeldq).onset
    # Groups are lost only from a reading on that is really as high as that.
    high = np.logical_or.accumulate(struck >= onset, axis=1)
    np.testing.assert_array_equal(flags & SATURATED > 0, (given & SATURATED > 0) | high)
    far_below = hit & (struck[0].max(axis=0) < 0.9 * onset)
    assert far_below.sum() > 100
    np.testing.assert_array_equal(flags[0][:, far_below], given[0][:, far_below])
    # Pixels that are not hit are treated as if there were no rays.
    choose_groups(plain, plain_flags, pixeldq.copy())
    near = np.abs(struck / onset - 1).min(axis=1)[0] < 0.02
    same = ~hit & ~near
    np.testing.assert_array_equal(flags[0][:, same], plain_flags[0][:, same])


def test_each_integration_is_treated_for_itself():
    _, data, groupdq, pixeldq = make_ramps(integrations=2)
    single = [make_ramps(integrations=2)[i] for i in (1, 2, 3)]
    onset = find_ramp_onset(data, groupdq, pixeldq)
    choose_groups(data, groupdq, pixeldq)
    assert np.isfinite(onset)
    for i in (0, 1):
        above = np.logical_or.accumulate(single[0][i] >= onset, axis=0)
        np.testing.assert_array_equal(groupdq[i] & SATURATED > 0, above)


def test_bad_and_reference_pixels_are_left_alone():
    _, data, groupdq, pixeldq = make_ramps(flagged_from=0.8 * WELL, knee=50.0)
    pixeldq[:, :4] |= np.uint32(2**31)
    pixeldq[7] |= DO_NOT_USE
    before = groupdq.copy(), pixeldq.copy()
    choose_groups(data, groupdq, pixeldq)
    for got, old in ((groupdq[0], before[0][0]), (pixeldq, before[1])):
        np.testing.assert_array_equal(got[..., :4], old[..., :4])
        np.testing.assert_array_equal(got[..., 7, :], old[..., 7, :])


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_short_ramps_do_not_fail(groups):
    _, data, groupdq, pixeldq = make_ramps(groups=groups, first_frame=False)
    before = groupdq.copy()
    assert pedestals(data, groupdq, pixeldq).shape == (1, 4)
    choose_groups(data, groupdq, pixeldq)
    if groups < 3:
        np.testing.assert_array_equal(groupdq, before)


def test_steps_keep_what_else_is_wanted_and_are_plain_data():
    given = {"jump": {"rejection_threshold": 5.0}, "dark_current": {"skip": True}}
    steps = stage1_steps(given, minimum_groups=2, onset_drop=0.03)
    assert json.loads(json.dumps(steps)) == steps
    assert steps["jump"]["rejection_threshold"] == 5.0
    assert steps["dark_current"] == {"skip": True}
    assert steps["ramp_fit"]["suppress_one_group"] is True
    assert given == {"jump": {"rejection_threshold": 5.0}, "dark_current": {"skip": True}}
    assert stage1_steps()["ramp_fit"]["suppress_one_group"] is False


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """One exposure of Saturn three times too bright for its five groups."""
    return simulate(tmp_path_factory.mktemp("bright") / "data", "--scale", 3, "--dithers", 1, "--jobs", 1)


@pytest.fixture
def fit_ramps(bright, tmp_path, monkeypatch):
    """Runs stage 1 on it with parameters; gives rates, errors and flags."""
    from stdatamodels.jwst import datamodels

    from jwst_stages import run_stage1

    for name, value in bright.environment.items():
        monkeypatch.setenv(name, value)
    (uncal,) = (bright.root / "stage0").glob("*_uncal.fits")

    def run(kind, steps):
        # The product is named after the input.
        path = tmp_path / kind / uncal.name.replace("_uncal", "_rate")
        path.parent.mkdir()
        run_stage1(uncal, path, steps=steps)
        with datamodels.open(path) as model:
            return model.data.copy(), model.err.copy(), model.dq & DO_NOT_USE == 0

    return run


@pytest.fixture(scope="module")
def true_rates(bright):
    """Count rates that went in, and which pixels are lit and sound."""
    (path,) = (bright.root / "truth").glob("*.npz")
    truth = np.load(path)["rate"]
    defects = mrs_detector.get_defects("MIRIFUSHORT")
    sound = truth > 100
    sound.flat[np.concatenate([defects.dead, defects.hot, defects.warm])] = False
    return truth, sound


# The cache of reference files is locked by a function that its own package has deprecated.
locks_cache = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@locks_cache
def test_pipeline_gives_saturated_pixels_their_true_rates(fit_ramps, true_rates):
    """With the older settings, in which the first group is lost; see `firstframe` and `rscd` of `jwst`."""
    truth, sound = true_rates
    settings = {"firstframe": {"skip": False, "bright_use_group1": False}, "rscd": {"skip": True}}
    plain, _, plain_good = fit_ramps("plain", settings)
    data, err, good = fit_ramps("chosen", stage1_steps(settings))
    lost = sound & ~(plain_good & np.isfinite(plain))
    assert lost.mean() > 0.1
    assert (np.isfinite(data[lost]) & good[lost]).mean() > 0.999
    assert (np.abs(data[lost] / truth[lost] - 1) < 0.02).mean() > 0.99
    pull = (data - truth)[lost] / err[lost]
    assert (np.abs(pull) < 3).mean() > 0.99
    assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.2
    # The others are what they were; the pedestal is gone from all groups alike.
    kept = sound & ~lost
    assert (np.abs(data - plain)[kept] < 1e-3 * err[kept] + 1e-5 * plain[kept]).mean() > 0.999


@locks_cache
def test_pipeline_survives_a_saturation_file_that_is_too_high(fit_ramps, true_rates, bright, tmp_path):
    """Above the full well nothing is ever flagged: rates of bright pixels would be anything down to 0."""
    (reference,) = (bright.root / "crds" / "references").rglob("*_saturation_*.fits")
    with fits.open(reference) as hdul:
        hdul["SCI"].data[:] = 62000.0
        hdul.writeto(tmp_path / "saturation.fits")
    settings = {"saturation": {"override_saturation": str(tmp_path / "saturation.fits")}, "jump": {"skip": True}}
    truth, sound = true_rates
    data, err, good = fit_ramps("chosen", stage1_steps(settings))
    bright_pixels = sound & (truth > 6000)
    assert bright_pixels.sum() > 1e5
    assert (np.isfinite(data) & good)[bright_pixels].mean() > 0.999
    data, err, truth = data[bright_pixels], err[bright_pixels], truth[bright_pixels]
    assert (np.abs(data / truth - 1) < 0.02).mean() > 0.99
    assert (np.abs(data - truth) < 3 * err).mean() > 0.99
