"""Desaturation against simulated truth, and against plain loops written from the rules alone."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from saturating import make_ramps, merge

import desaturate
from benchmarks.reference_desaturate import reference_factors, reference_onset, reference_steps, reference_usable
from desaturate import desaturate_cubes
from desaturation_rules import Thresholds, by_factors, by_onset, limit_steps, usable
from ramp_pairs import Pair
from saturation_onset import Onset, compare_ramps, deviation, is_low, sum_of_three

T = Thresholds()


# Pixels bend here at any charge in a wide range: clean voxels lie among those that are not, and one or two of some
# 20,000 look like them.
FEW = 1e-4


def share_changed(merged, ramps):
    """Share of the clean voxels that have been replaced."""
    return (merged.desat_type[ramps.clean] > 0).mean()


# --- truth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("snr", [100.0, 300.0, 1000.0])
def test_saturated_voxels_are_recovered_and_no_others_changed(seed, snr):
    ramps = make_ramps(seed=seed, snr=snr)
    sci, err, merged = merge(ramps)
    saturated = (ramps.lost[0] | (ramps.bent[0] > 0)) & (ramps.truth > 0.05)
    assert saturated.mean() > 0.1
    assert merged.has_data[saturated].mean() > 0.99
    saturated &= merged.has_data
    relative, pull = sci / ramps.truth - 1, (sci - ramps.truth) / err
    assert (np.abs(relative[saturated]) < 0.02).mean() > 0.999
    assert (np.abs(pull[saturated]) < 3).mean() > 0.99
    assert 0.8 < 1.4826 * np.median(np.abs(pull[saturated])) < 1.1
    assert share_changed(merged, ramps) < FEW
    untouched = merged.desat_type == 0
    np.testing.assert_array_equal(sci[untouched], ramps.sci[0][untouched])
    np.testing.assert_array_equal(err[untouched], ramps.err[0][untouched])


@pytest.mark.parametrize("snr", [30.0, 100.0, 300.0, 1000.0])
def test_at_most_one_clean_voxel_in_a_hundred_thousand_is_changed(snr):
    """Clean are those in which no pixel bends, though they lie among such as do."""
    clean = changed = 0
    for seed in (20, 21, 22):
        for groups in ((5, 4, 3, 2, 1), (5, 3, 1)):
            ramps = make_ramps(groups, seed=seed, snr=snr, well=5.0)
            clean += ramps.clean.sum()
            changed += (
                desaturate_cubes(ramps.sci, ramps.err, ramps.dq, ramps.coverage).desat_type[ramps.clean] > 0
            ).sum()
    assert clean > 390_000
    # So few come by chance in one case of a hundred where 4 are expected.
    assert changed <= 9


def test_pixels_lost_for_other_reasons_are_not_taken_for_saturation():
    """Outlier detection drops other pixels from the combined cube of each ramp length."""
    ramps = make_ramps((5, 3, 1), seed=6, well=3.0)
    random = np.random.default_rng(6)
    dropped = [(random.random(ramps.truth.shape) < 0.01) & (count > 1) for count in ramps.coverage]
    coverage = [count - part for count, part in zip(ramps.coverage, dropped, strict=True)]
    merged = desaturate_cubes(ramps.sci, ramps.err, ramps.dq, coverage)
    dark = ramps.clean & (ramps.truth * 5 / 3.0 < 0.6)
    assert (dark & dropped[0]).sum() > 200
    assert (merged.desat_type[dark & dropped[0]] > 0).mean() < 0.1
    part = ramps.lost[0] & (ramps.coverage[0] > 0)
    assert part.sum() > 1000
    assert (merged.desat_type[part] == 2).mean() > 0.995


def test_reasons_and_ramps_are_right():
    ramps = make_ramps()
    _, _, merged = merge(ramps)
    missing = (ramps.coverage[0] == 0) & (ramps.coverage[-1] > 0)
    assert (merged.desat_type[missing] == 1).all()
    part = ramps.lost[0] & (ramps.coverage[0] > 0)
    assert (merged.desat_type[part] == 2).all()
    # Each voxel is from the longest ramp that is whole, if the ramps differ by more than noise hides.
    best = np.full(ramps.truth.shape, len(ramps.groups) - 1)
    for number in range(len(ramps.groups) - 2, -1, -1):
        fine = ~ramps.lost[number] & (ramps.bent[number] < 3e-3)
        best = np.where(fine, number, best)
    free_of_steps = desaturate_cubes(ramps.sci, ramps.err, ramps.dq, ramps.coverage, maximum_step=9)
    inside = ramps.coverage[-1] > 0
    assert (free_of_steps.ramp[inside] >= best[inside]).mean() > 0.995
    assert (free_of_steps.ramp[inside] - best[inside] <= 1).mean() > 0.99


@pytest.mark.parametrize("coverage", [True, False])
def test_partial_saturation_of_three_to_ten_per_cent_is_found(coverage):
    ramps = make_ramps(snr=300.0)
    _, _, merged = merge(ramps, coverage)
    low = (ramps.bent[0] > 0.03) & (ramps.bent[0] < 0.1) & ~ramps.lost[0]
    assert low.sum() > 300
    assert (merged.desat_type[low] == 2).mean() > 0.99
    slight = (ramps.bent[0] > 0.01) & (ramps.bent[0] < 0.03) & ~ramps.lost[0]
    assert (merged.desat_type[slight] == 2).mean() > 0.9
    # The fixed factors find none of these, and take good voxels for bad ones.
    fixed = desaturate_cubes(ramps.sci, ramps.err, ramps.dq, method="factors")
    assert (fixed.desat_type[low] == 2).mean() < 0.9
    assert fixed.desat_type[ramps.clean].any()


# By ramps and S/N of one group of a pixel (of voxels of the longest ramp, where it saturates: 80, 270, 800), the share
# found of voxels that are too low by 1-3 and by 3-10 per cent: the table of `saturation_onset`.
FOUND = {
    ((5, 4, 3, 2, 1), 30.0): (0.22, 0.93),
    ((5, 4, 3, 2, 1), 100.0): (0.99, 1.00),
    ((5, 4, 3, 2, 1), 300.0): (1.00, 1.00),
    ((5, 3, 1), 30.0): (0.03, 0.56),
    ((5, 3, 1), 100.0): (0.88, 1.00),
    ((5, 3, 1), 300.0): (1.00, 1.00),
    ((5, 1), 30.0): (0.00, 0.10),
    ((5, 1), 100.0): (0.15, 0.88),
    ((5, 1), 300.0): (0.95, 1.00),
}


@pytest.mark.parametrize(("groups", "snr"), FOUND)
def test_what_is_said_to_be_found_is_found(groups, snr):
    found, within = [[], []], []
    for seed in (40, 41):
        ramps = make_ramps(groups, seed=seed, snr=snr)
        sci, err, merged = merge(ramps)
        for shares, least, most in zip(found, (0.01, 0.03), (0.03, 0.1), strict=True):
            low = (ramps.bent[0] > least) & (ramps.bent[0] < most) & ~ramps.lost[0]
            shares.append((merged.desat_type[low] == 2).mean())
        # Of those that are too low by 3 to 10 per cent.
        within.append((np.abs(sci - ramps.truth)[low] < 3 * err[low]).mean())
    assert np.mean(found, axis=1) == pytest.approx(FOUND[groups, snr], abs=0.1)
    if found[1][0] > 0.99:
        assert np.mean(within) > 0.985


def test_voxels_beside_saturated_pixels_are_replaced_however_faint():
    ramps = make_ramps(unflagged=False)
    sci, err, merged = merge(ramps)
    part = ramps.lost[0] & (ramps.coverage[0] > 0)
    wrong = np.abs(ramps.sci[0] - ramps.truth) > 4 * ramps.err[0]
    assert (part & wrong).sum() > 100
    assert (merged.desat_type[part] == 2).all()
    assert (np.abs(sci - ramps.truth)[part] < 4 * err[part]).mean() > 0.995
    assert not merged.desat_type[ramps.clean].any()


def test_without_saturation_nothing_is_changed():
    ramps = make_ramps(well=100.0)
    _, _, merged = merge(ramps)
    assert not merged.desat_type.any()
    assert all(math.isinf(onset.brightness) for onset in merged.onsets)


def test_cosmic_rays_are_taken_out_and_not_taken_for_signal():
    ramps = make_ramps(cosmic_rays=3e-4, well=4.0)
    sci, err, merged = merge(ramps)
    both = (ramps.coverage[0] > 0) & (ramps.truth > 0.05)
    # In a late group: the shorter ramps are clean.
    late = both & ramps.hit[0] & ~ramps.hit[2] & ~ramps.lost[0] & (ramps.bent[0] == 0)
    bright = late & (ramps.sci[0] > 1.06 * ramps.truth) & (ramps.sci[0] - ramps.truth > 12 * ramps.err[2])
    assert bright.sum() > 50
    assert (merged.desat_type[bright] == 3).mean() > 0.95
    assert (np.abs(sci - ramps.truth)[bright] < 5 * err[bright]).mean() > 0.9
    assert share_changed(merged, ramps) < FEW


def test_the_longest_ramp_is_kept_where_a_cosmic_ray_is_in_all():
    ramps = make_ramps(cosmic_rays=3e-4, well=100.0)
    _, _, merged = merge(ramps)
    early = ramps.hit[-1] & (ramps.coverage[0] > 0)
    assert early.sum() > 50
    assert (merged.desat_type[early] == 0).mean() > 0.95


def test_flux_ratio_of_ramps_is_measured_and_does_no_harm():
    ramps = make_ramps(groups=(5, 2))
    for cube in (ramps.sci[1], ramps.err[1]):
        cube *= np.float32(1.03)
    _, _, merged = merge(ramps)
    (onset,) = merged.onsets
    assert onset.ratio == pytest.approx(1 / 1.03, abs=5 * onset.ratio_error)
    assert onset.ratio_error < 1e-3
    assert share_changed(merged, ramps) < FEW


def test_neighbours_differ_by_at_most_the_step_where_they_may_be_moved():
    ramps = make_ramps(seed=3)
    _, _, merged = merge(ramps, maximum_step=1)
    replaced = (merged.desat_type > 0) & merged.has_data
    for axis in range(3):
        first, second = (np.moveaxis(a, axis, 0) for a in (merged.ramp, replaced))
        step = np.abs(np.diff(first, axis=0))
        assert step[second[1:] & second[:-1]].max() <= 1
    assert share_changed(merged, ramps) < FEW


# --- second route ---------------------------------------------------------------------------------------------------


@st.composite
def random_ramps(draw):
    """Cubes with NaNs, zeros, flags and repeated values in odd shapes."""
    shape = draw(st.sampled_from([(1, 1, 1), (1, 3, 2), (7, 1, 1), (6, 2, 3), (3, 4, 1)]))
    count = draw(st.integers(1, 5))
    values = st.sampled_from([np.nan, 0.0, 1.0, 80.0, 95.0, 100.0, 101.0, 119.0, 125.0, 160.0, 350.0, -2.0])
    errors = st.sampled_from([0.1, 0.3, 1.0, 5.0, np.nan])
    flags = st.sampled_from([0, 0, 0, 1, 4, 513])
    cover = st.sampled_from([1.0, 3.0, 4.0])

    def cubes(kind, elements):
        return [draw(hnp.arrays(kind, shape, elements=elements)) for _ in range(count)]

    sci, err = cubes(np.float32, values.map(np.float32)), cubes(np.float32, errors.map(np.float32))
    dq, coverage = cubes(np.uint32, flags), cubes(np.float32, cover.map(np.float32))
    if draw(st.booleans()):
        sci[draw(st.integers(0, count - 1))][0] = np.nan
    return sci, err, dq, draw(st.sampled_from([None, coverage]))


relaxed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(random_ramps())
def test_factors_agree_with_plain_loops(cubes):
    sci, err, dq, _ = cubes
    ok = [usable(s, q) for s, q in zip(sci, dq, strict=True)]
    for got, s, q in zip(ok, sci, dq, strict=True):
        np.testing.assert_array_equal(got, reference_usable(s, q))
    for got, expected in zip(by_factors(sci, err, ok, T), reference_factors(sci, err, ok), strict=True):
        np.testing.assert_array_equal(got, expected)


@relaxed
@given(random_ramps())
def test_onset_method_agrees_with_plain_loops(cubes):
    sci, err, dq, coverage = cubes
    ok = [usable(s, q) for s, q in zip(sci, dq, strict=True)]
    expected = reference_onset(sci, err, ok, coverage)
    # What it is given is overwritten.
    for got, plain in zip(by_onset(sci, err, ok, coverage, T)[:2], expected, strict=True):
        np.testing.assert_array_equal(got, plain)


@relaxed
@given(random_ramps(), st.integers(1, 3), st.integers(0, 2**31))
def test_steps_agree_with_plain_loops(cubes, step, seed):
    sci, _, dq, _ = cubes
    random = np.random.default_rng(seed)
    ok = [usable(s, q) for s, q in zip(sci, dq, strict=True)]
    # A ramp with data, where there is one.
    order = random.permutation(len(sci))
    ramp = np.zeros(sci[0].shape, np.int8)
    for number in order:
        ramp[ok[number] & (random.random(ramp.shape) < 0.6)] = number
    ramp = np.where(np.choose(ramp, ok), ramp, np.argmax(ok, axis=0)).astype(np.int8)
    free = random.random(ramp.shape) < 0.7
    np.testing.assert_array_equal(limit_steps(ramp, ok, step, free), reference_steps(ramp, ok, step, free))


@relaxed
@given(random_ramps())
def test_every_result_is_data_of_one_of_the_ramps(cubes):
    sci, err, dq, coverage = cubes
    for method in desaturate.METHODS:
        merged = desaturate_cubes(sci, err, dq, coverage, method=method)
        ok = np.array([usable(s, q) for s, q in zip(sci, dq, strict=True)])
        np.testing.assert_array_equal(merged.has_data, ok.any(axis=0))
        np.testing.assert_array_equal(merged.ramp[~ok.any(axis=0)], 0)
        np.testing.assert_array_equal(merged.desat_type > 0, merged.ramp > 0)


@relaxed
@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.just(2), st.just(1)), elements=st.floats(0, 9, width=32)))
def test_brightness_is_the_median_of_five(best):
    known = best != 3
    got = Pair(best, best, best, best, known, known).brightness(np.arange(best.size)).reshape(best.shape)
    for w, y, x in np.ndindex(*best.shape):
        five = [best[v, y, x] if 0 <= v < len(best) and known[v, y, x] else best[w, y, x] for v in range(w - 2, w + 3)]
        if known[w, y, x]:
            assert got[w, y, x] == np.float32(np.median(five))


def test_low_voxels_agree_with_a_plain_loop():
    random = np.random.default_rng(5)
    onset = Onset(1.0, 0.0, (1.5, 2.0), 10.0, (10.0, 20.0, 30.0), (6.0, 3.8, 2.5))
    brightness = random.uniform(0, 40, 600)
    z, smooth = random.normal(-2, 4, (2, 600)).astype(np.float32)
    for tested, far in ((100, 4.0), (10**6, -NormalDist().inv_cdf(3e-8))):
        got = is_low(onset, z, smooth, brightness, tested)
        for low, value, three, b in zip(got, z, smooth, brightness, strict=True):
            limit = 2.5 if b >= 30 else 3.8 if b >= 20 else far
            # The mean of the three is their sum over sqrt(3), over sqrt(3).
            alike = value < -3.5 and value < 0.9 * three / math.sqrt(3)
            assert low == (value < -limit or (alike and three < -limit))


def test_deviation_is_in_units_of_the_errors():
    cubes = [np.full((3, 1, 1), v, np.float32) for v in (12.0, 0.3, 10.0, 0.4)]
    places = np.arange(3)
    expected = (12 - 11) / math.sqrt(0.3**2 + 0.4**2 + (0.0005 * 11) ** 2)
    np.testing.assert_allclose(deviation(*cubes, places, 1.1), expected, rtol=1e-5)
    for valid, count in (((True, True, True), (2, 3, 2)), ((True, True, False), (2, 2, 1))):
        sums = sum_of_three(*cubes, np.reshape(valid, (3, 1, 1)), places, 1.1)
        np.testing.assert_allclose(sums, expected * np.array(count) / math.sqrt(3), rtol=1e-5)


@pytest.mark.parametrize("groups", [(5, 4, 3, 2, 1), (5, 4, 3, 2)])
@pytest.mark.parametrize("seed", [7, 8])
def test_a_cosmic_ray_in_the_shorter_ramp_is_not_taken_for_signal(groups, seed):
    """The longer ramp has it in less of its groups, and so reads lower, as if it were saturated."""
    ramps = make_ramps(groups, seed=seed, cosmic_rays=3e-4, well=3.0)
    sci, _, merged = merge(ramps)
    unsaturated = (ramps.coverage[0] > 0) & ~ramps.lost[0] & (ramps.bent[0] == 0)
    excess = [value - ramps.truth for value in ramps.sci]
    rays = unsaturated & ramps.hit[-1] & (excess[-1] > 8 * ramps.err[-1]) & (excess[-1] > 1.2 * np.abs(excess[0]))
    assert rays.sum() > 20
    taken = rays & (merged.desat_type > 0) & (sci - ramps.truth > 1.2 * np.abs(excess[0]))
    assert taken.sum() <= 0.05 * rays.sum()


def test_a_narrow_line_that_saturates_is_no_cosmic_ray():
    """It is brighter than its neighbours in wavelength, but so it is in the spaxels around."""
    ramps = make_ramps(seed=9, well=5.5)
    _, _, merged = merge(ramps)
    peak = np.zeros(ramps.truth.shape, bool)
    for plane in (24, 71, 95):
        peak[plane] = True
    low = peak & (ramps.bent[0] > 0.02) & ~ramps.lost[0]
    assert low.sum() > 20
    assert (merged.desat_type[low] == 2).mean() > 0.98


@pytest.mark.parametrize("depth", [0.02, 0.06])
def test_onset_is_found_where_it_is(depth):
    random = np.random.default_rng(2)
    brightness = random.uniform(1, 100, (100, 20, 20)).astype(np.float32)
    short = brightness * (1 + 0.004 * random.standard_normal(brightness.shape)).astype(np.float32)
    long = brightness * (1 + 0.003 * random.standard_normal(brightness.shape)).astype(np.float32)
    long *= np.where(brightness > 70, 1 - depth * (brightness - 70) / 30, 1).astype(np.float32)
    error = 0.004 * brightness
    everywhere = np.ones(brightness.shape, bool)
    onset = compare_ramps(long, error, short, error, everywhere, brightness=lambda places: brightness.ravel()[places])
    z = deviation(long, error, short, error, np.flatnonzero(brightness < 60), onset.ratio) / onset.noise[0]
    assert 1.4826 * np.median(np.abs(z)) == pytest.approx(1, abs=0.1)
    # By the time the ratio has fallen by the 0.4 per cent that count.
    assert 66 < onset.brightness < 72 + 30 * 0.004 / depth
    assert onset.ratio == pytest.approx(1, abs=3e-4)
    assert onset.noise[0] == pytest.approx(math.hypot(0.004, 0.003) / (0.004 * math.sqrt(2)), rel=0.1)
    # Where nearly all are low it takes little to be taken for one of them.
    assert onset.thresholds[0] > 4 > onset.thresholds[-1]
