"""The simulated telescope's optics and pointing: against closed forms, other libraries and the real instrument."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from conftest import SHARED_DATA
from numpy.testing import assert_allclose

from errors import FileFormatError, InputError
from simulate import pointing
from simulate.mrs_calibration import conversion_factor
from simulate.mrs_optics import (
    BAND_LIMITS,
    BANDS,
    CHANNELS_OF_DETECTOR,
    NUMBER_OF_ROWS,
    find_geometry_files,
    get_optics,
    read_optics,
    sample_pixels,
)
from simulate.mrs_plan import DITHERS
from simulate.pointing import MRS_APERTURE

REAL_GEOMETRY = SHARED_DATA / "mrs_geometry"
SETTINGS = [(detector, band) for detector in CHANNELS_OF_DETECTOR for band in BANDS]
# Slices, slice width, fields along and across the slices [arcsec] (JDox; Argyriou et al. 2023).
INSTRUMENT = {1: (21, 0.177, 3.2, 3.7), 2: (17, 0.280, 4.0, 4.8), 3: (16, 0.390, 5.2, 6.2), 4: (12, 0.656, 6.6, 7.7)}


@cache
def built_in(detector, band):
    return get_optics(detector, band)


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: "-".join(setting))
def optics(request):
    return built_in(*request.param)


@pytest.fixture(scope="module")
def real_geometry():
    if not REAL_GEOMETRY.is_dir():
        pytest.skip(f"no real MRS geometry in {REAL_GEOMETRY}")
    return REAL_GEOMETRY


def slices_of(optics, channel):
    return {number: model for number, model in optics.slices.items() if number // 100 == channel}


def test_inverse_transforms_return_to_the_pixel(optics):
    for number, y, x in optics.pixels(0.8):
        model, y, x = optics.slices[number], y[::37].astype(float), x[::37].astype(float)
        alpha, wavelength = model.alpha(y, x), model.wavelength(y, x)
        assert_allclose(model.x(wavelength, alpha), x, atol=0.01)
        assert_allclose(model.y(wavelength, alpha), y, atol=0.01)
    for channel in optics.channels:
        to_v2v3 = optics.to_v2v3[channel]
        assert_allclose(to_v2v3.inverse(*to_v2v3(1.3, -2.1)), (1.3, -2.1), atol=1e-9)


def test_slices_have_the_instruments_number_width_and_field(optics):
    for channel in optics.channels:
        count, width, along, across = INSTRUMENT[channel]
        slices = slices_of(optics, channel)
        assert len(slices) == count
        betas = np.array([model.beta for model in slices.values()])
        assert_allclose(np.diff(betas), width, rtol=0.005)
        to_v2v3 = optics.to_v2v3[channel]
        unit = np.hypot(*np.subtract(to_v2v3(0, 1), to_v2v3(0, 0)))
        assert_allclose((np.ptp(betas) + width) * unit, across, rtol=0.03)
        unit = np.hypot(*np.subtract(to_v2v3(1, 0), to_v2v3(0, 0)))
        for number, y, x in optics.pixels(0.8):
            if number in slices and number % 100 in (1, count // 2, count):
                pixel = np.median(np.abs(np.diff(slices[number].alpha(np.full(9, 500.0), x.mean() + np.arange(9)))))
                assert_allclose(y.size / NUMBER_OF_ROWS * pixel * unit, along, rtol=0.01)


def test_slices_do_not_overlap_and_leave_the_gap_between_the_channels_dark(optics):
    planes = optics.regions
    for lower, higher in pairwise(planes):
        lit = higher > 0
        assert np.array_equal(higher[lit], lower[lit])
        assert lit.sum() < (lower > 0).sum()
    assert set(np.unique(planes[7])) - {0} == set(optics.slices)
    assert not planes[:, :, 503:514].any()
    for number, y, _ in optics.pixels(0.8):
        assert np.unique(y).size == NUMBER_OF_ROWS, number


def test_every_slice_covers_its_band(optics):
    wavelength = optics.wavelength_map(0.8)
    for number, y, x in optics.pixels(0.8):
        channel = number // 100
        low, high = BAND_LIMITS[channel, optics.band]
        seen = wavelength[y, x]
        margin = 0.03 * (high - low)
        # The real slices, too, end up to 2 % of the band's width short of its nominal limits.
        assert seen.min() < low + margin and seen.max() > high - margin
        lowest, highest = optics.wavelength_range[f"{channel}{optics.band}"]
        assert lowest < seen.min() and seen.max() < highest
        rises = np.mean(seen[y > 900]) > np.mean(seen[y < 100])
        assert rises == (channel < 3)


def test_few_samples_integrate_pixel_and_slice_as_well_as_many():
    optics = built_in("MIRIFULONG", "LONG")
    few, many = sample_pixels(optics), sample_pixels(optics, 4, 6)

    def star(samples):
        fwhm = 0.033 * samples.wavelength + 0.106
        square = (samples.v2 + 503.2) ** 2 + (samples.v3 + 319.3) ** 2
        return samples.weights @ np.exp(-4 * np.log(2) * square / fwhm**2)

    assert_allclose(few.weights.sum(), 1)
    assert_allclose(star(few), star(many), atol=5e-4)


@pytest.mark.parametrize(("detector", "band"), SETTINGS)
def test_built_in_optics_are_close_to_the_real_ones(real_geometry, detector, band):
    ours, real = built_in(detector, band), read_optics(real_geometry, detector, band)
    assert list(ours.slices) == list(real.slices)
    for channel in ours.channels:
        assert_allclose(ours.slice_width[channel], real.slice_width[channel], rtol=0.001)
        low, high = BAND_LIMITS[channel, band]
        for corner in ((0, 0), (1.5, 1.5), (-1.5, 1.5)):
            assert_allclose(ours.to_v2v3[channel](*corner), real.to_v2v3[channel](*corner), atol=0.06)
    real_pixels = {number: (y, x) for number, y, x in real.pixels()}
    for number, model in ours.slices.items():
        low, high = BAND_LIMITS[number // 100, band]
        y, x = real_pixels[number]
        row = np.abs(y - 512) < 20
        y, x = y[row].astype(float), x[row].astype(float)
        twin = real.slices[number]
        assert_allclose(model.beta, twin.beta, atol=0.002)
        assert_allclose(model.wavelength(y, x), twin.wavelength(y, x), atol=0.03 * (high - low))
        # The slices' places differ by up to 12 pixels between the bands of the real instrument.
        assert abs(np.mean(model.alpha(y, x) - twin.alpha(y, x))) < 12 * 0.27
        scales = [float(np.median(m.alpha(y, x + 1) - m.alpha(y, x))) for m in (model, twin)]
        assert_allclose(*scales, rtol=0.16)


def test_geometry_files_are_found_by_what_they_say_and_missing_ones_are_named(real_geometry, tmp_path):
    assert len(find_geometry_files(real_geometry)) == 6 * 3 + 1
    with pytest.raises(FileFormatError, match="no distortion file for MIRIFUSHORT LONG"):
        read_optics(tmp_path, "MIRIFUSHORT", "LONG")
    with pytest.raises(InputError, match="not a directory"):
        read_optics(tmp_path / "nowhere", "MIRIFUSHORT", "LONG")


def test_conversion_grows_with_wavelength():
    assert np.all(np.diff(conversion_factor(np.linspace(17.7, 27.9, 5), 4)) > 0)


@pytest.mark.parametrize(("ra", "dec", "roll"), [(321.4, -16.5, 72.0), (0.001, 63.0, 250.0), (180.0, 0.0, 0.0)])
def test_attitude_agrees_with_sky_offset_frames(ra, dec, roll):
    attitude = pointing.attitude_matrix(0.0, 0.0, ra, dec, roll)
    frame = SkyCoord(ra * u.deg, dec * u.deg).skyoffset_frame(rotation=roll * u.deg)
    v2, v3 = np.array([0.0, 700.0, -503.0]), np.array([0.0, 200.0, -319.0])
    expected = SkyCoord(v2 * u.arcsec, v3 * u.arcsec, frame=frame).icrs
    got = SkyCoord(*pointing.v2v3_to_sky(v2, v3, attitude), unit="deg")
    assert got.separation(expected).to_value("mas").max() < 1e-3
    back = pointing.sky_to_v2v3(*pointing.v2v3_to_sky(v2, v3, attitude), attitude)
    assert_allclose(back, (v2, v3), atol=1e-7)


def test_attitude_agrees_with_jwst():
    from jwst.assign_wcs.pointing import _v23tosky, compute_roll_ref

    reference = (MRS_APERTURE.v2_ref, MRS_APERTURE.v3_ref)
    attitude = pointing.attitude_matrix(*reference, 359.9999, -14.9, 72.0)
    theirs = _v23tosky(reference[0] / 3600, reference[1] / 3600, 72.0, 359.9999, -14.9)
    v2, v3 = np.array([-500.0, -510.0, 0.0]), np.array([-320.0, -310.0, 0.0])
    assert_allclose(pointing.v2v3_to_sky(v2, v3, attitude), theirs(v2, v3), atol=1e-11)
    roll = compute_roll_ref(*reference, 72.0, 359.9999, -14.9, 0.0, 0.0)
    assert_allclose(pointing.roll_at(attitude, 0.0, 0.0), roll, atol=1e-9)


def test_aim_puts_a_point_of_the_focal_plane_onto_a_place_on_the_sky():
    v2, v3, ra, dec = -400.0, -250.0, 0.01, 71.0
    ra_ref, dec_ref = pointing.aim(MRS_APERTURE, v2, v3, ra, dec, 33.0)
    attitude = pointing.attitude_matrix(MRS_APERTURE.v2_ref, MRS_APERTURE.v3_ref, ra_ref, dec_ref, 33.0)
    seen = SkyCoord(*pointing.v2v3_to_sky(v2, v3, attitude), unit="deg")
    assert seen.separation(SkyCoord(ra, dec, unit="deg")).to_value("mas") < 1e-3


def test_a_misread_position_is_too_high_by_the_error():
    ra, dec = pointing.misread(359.99999, 60.0, 0.36, -0.72)
    assert_allclose((ra, dec), (359.99999 + 2e-4 - 360, 60.0 - 2e-4), atol=1e-12)


def test_offset_positions_are_where_astropy_puts_them():
    centre = SkyCoord(321.0, -16.0, unit="deg")
    expected = centre.directional_offset_by(30 * u.deg, 100 * u.arcsec)
    got = SkyCoord(*pointing.offset_position(321.0, -16.0, 50.0, 100 * np.cos(np.pi / 6)), unit="deg")
    assert got.separation(expected).to_value("mas") < 0.1


def test_velocity_aberration_agrees_with_stcal():
    from stcal.velocity_aberration import compute_va_effects

    got = pointing.velocity_aberration(MRS_APERTURE, 321.0, -16.0, np.array([10.0, -25.0, 6.0]))
    expected = compute_va_effects(10.0, -25.0, 6.0, 321.0, -16.0)
    assert_allclose((got.scale, got.apparent_ra, got.apparent_dec), expected, rtol=1e-12)


def test_dithers_sample_the_slices_at_half_integer_steps():
    (x1, y1), (x2, y2) = DITHERS[:2]
    for width in (0.1772, 0.2797, 0.3898, 0.656):
        assert_allclose(abs(y2 - y1) / width % 1, 0.5, atol=0.02)
    assert_allclose(abs(x2 - x1) / 0.195 % 1, 0.5, atol=0.06)
    assert len(set(DITHERS)) == len(DITHERS)
