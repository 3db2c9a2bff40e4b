"""The simulated NIRSpec optics against the real instrument's, and against the WCS that `jwst` makes of the files."""

from functools import cache

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from conftest import SHARED_DATA
from numpy.testing import assert_allclose

from errors import FileFormatError, InputError
from simulate import pointing
from simulate.crds_cache import CrdsCache
from simulate.nirspec_elements import WAVELENGTHS, geometry_files, get_elements
from simulate.nirspec_model import slice_position
from simulate.nirspec_optics import NUMBER_OF_SLICES, SHORTEST_WAVELENGTH, Optics, get_optics, sample_pixels
from simulate.nirspec_references import add_geometry
from simulate.pointing import NRS_APERTURE

SPEED_OF_LIGHT = 299792458.0
VELOSYS = 23456.0  # [m/s]
ON_THE_SKY = {"ra_ref": 0.0004, "dec_ref": -14.0, "roll_ref": 130.0}


@cache
def optics_of(detector: str, grating: str, geometry=None) -> Optics:
    filter_name = next(filter_name for of_grating, filter_name in WAVELENGTHS if of_grating == grating)
    return get_optics(detector, grating, filter_name, geometry)


@pytest.fixture
def real_geometry():
    directory = SHARED_DATA / "nirspec_geometry"
    if not directory.is_dir():
        pytest.skip(f"no real instrument model in {directory}")
    return directory


def jwst_wcs(directory, optics: Optics):
    """The WCS of an exposure that `jwst` makes of the reference files; called with pixel and slice."""
    from gwcs import WCS
    from jwst.assign_wcs import nirspec
    from stdatamodels.jwst.datamodels import IFUImageModel

    crds = CrdsCache(directory, "NIRSPEC")
    add_geometry(crds, {(optics.grating, optics.filter): optics.elements})
    files = {name: str(crds.references / file) for name, (file,) in crds.files().items()}
    with IFUImageModel() as model:
        instrument, wcsinfo = model.meta.instrument, model.meta.wcsinfo
        instrument.detector, instrument.grating, instrument.filter = optics.detector, optics.grating, optics.filter
        instrument.gwa_xtilt = optics.disperser["gwa_tiltx"]["zeroreadings"][0]
        instrument.gwa_ytilt = optics.disperser["gwa_tilty"]["zeroreadings"][0]
        instrument.gwa_tilt = 37.0
        model.meta.exposure.type = "NRS_IFU"
        wcsinfo.v2_ref, wcsinfo.v3_ref = NRS_APERTURE.v2_ref, NRS_APERTURE.v3_ref
        wcsinfo.vparity, wcsinfo.v3yangle, wcsinfo.velosys = -1, NRS_APERTURE.v3_ideal_y_angle, VELOSYS
        for name, value in ON_THE_SKY.items():
            setattr(wcsinfo, name, value)
        model.meta.velocity_aberration.scale_factor = 1.0
        return WCS(nirspec.create_pipeline(model, files, (-0.55, 0.55)))


SETTINGS = [("NRS1", "PRISM"), ("NRS1", "G395M"), ("NRS1", "G395H"), ("NRS2", "G395H"), ("NRS2", "G140H")]


@pytest.mark.parametrize(("detector", "grating"), SETTINGS)
def test_jwst_sees_each_pixel_where_and_at_the_wavelength_that_the_telescope_does(tmp_path, detector, grating):
    optics = optics_of(detector, grating)
    wcs = jwst_wcs(tmp_path, optics)
    attitude = NRS_APERTURE.attitude(**ON_THE_SKY)
    for number in (0, 13, 28, 29):
        pixels = optics.pixels_of_slice(number)
        x, y = pixels.columns[7::997], pixels.rows[7::997]
        ra, dec, wavelength, _ = wcs(x, y, number)
        expected = SkyCoord(
            *pointing.v2v3_to_sky(*optics.slice_to_v2v3(number, 0.0, pixels.along[1, 7::997]), attitude), unit="deg"
        )
        assert SkyCoord(ra, dec, unit="deg").separation(expected).to_value("mas").max() < 0.02
        # The prism's wavelengths are interpolated in a coarse table by `jwst`.
        tolerance = 2e-5 if grating == "PRISM" else 1e-7
        topocentric = wavelength * (1 + VELOSYS / SPEED_OF_LIGHT)
        assert_allclose(topocentric, pixels.wavelength[7::997], rtol=tolerance)


def test_sky_to_detector_through_the_written_files_comes_back_to_the_pixel(tmp_path):
    optics = optics_of("NRS1", "G395M")
    wcs = jwst_wcs(tmp_path, optics)
    for number in (0, 17, 29):
        pixels = optics.pixels_of_slice(number)
        x, y = pixels.columns[11::4001], pixels.rows[11::4001]
        to_slit, to_pixel = wcs.get_transform("detector", "slit_frame"), wcs.get_transform("slit_frame", "detector")
        back = to_pixel(*to_slit(x, y, number))
        assert_allclose(back[0], x, atol=0.01)
        assert_allclose(back[1], y, atol=0.01)


@pytest.mark.parametrize(("detector", "grating"), SETTINGS)
def test_built_in_optics_are_those_of_the_real_instrument_to_half_a_pixel(real_geometry, detector, grating):
    ours, real = optics_of(detector, grating), optics_of(detector, grating, real_geometry)
    for number in (0, 1, 14, 15, 28, 29):
        pixels = real.pixels_of_slice(number)
        x, y = pixels.columns[5::499].astype(float), pixels.rows[5::499].astype(float)
        along, wavelength = ours.detector_to_slice(number, x, y)
        real_along, real_wavelength = real.detector_to_slice(number, x, y)
        scale = np.abs(real.detector_to_slice(number, x, y + 1)[0] - real_along)
        step = np.abs(real.detector_to_slice(number, x + 1, y)[1] - real_wavelength)
        both = np.isfinite(along + wavelength + scale + step)
        assert both.sum() > 0.9 * both.size
        assert np.all(np.abs(along - real_along)[both] < 0.5 * scale[both])
        assert np.all(np.abs(wavelength - real_wavelength)[both] < 0.5 * step[both])
        # The real field's middle lies 0.4 arcsec from the aperture's reference point.
        places = [np.subtract(o.slice_to_v2v3(number, 0.2, 0.4), o.slice_to_v2v3(0, -0.5, 0.0)) for o in (ours, real)]
        assert_allclose(*places, atol=0.012)


def test_slices_have_the_size_the_order_and_the_direction_of_the_real_ones():
    """V3I_YANG is measured from V3 towards V2; the slices lie along the aperture's y axis, to half a degree."""
    optics = optics_of("NRS1", "G395M")
    angle = np.deg2rad(NRS_APERTURE.v3_ideal_y_angle)
    along_axis, across_axis = np.array([np.sin(angle), np.cos(angle)]), np.array([-np.cos(angle), np.sin(angle)])
    for number in range(NUMBER_OF_SLICES):
        along = np.subtract(optics.slice_to_v2v3(number, 0, 0.5), optics.slice_to_v2v3(number, 0, -0.5))
        assert_allclose(along @ along_axis, -3.2, atol=0.03)
        assert_allclose(along @ across_axis, 0, atol=0.04)
        middle = np.subtract(optics.slice_to_v2v3(number, 0, 0), (NRS_APERTURE.v2_ref, NRS_APERTURE.v3_ref))
        assert_allclose(middle @ across_axis, -0.1034 * slice_position(number), atol=0.01)
    # On the detector even slices lie below its middle, from the inside out, and odd ones above.
    rows = np.array([pixels.rows.mean() for pixels in optics.pixels])
    assert np.all(np.diff(rows[0::2]) < 0) and np.all(np.diff(rows[1::2]) > 0)
    assert rows[0::2].max() < rows[1::2].min()


@pytest.mark.parametrize(("grating", "filter_name"), WAVELENGTHS)
def test_wavelengths_of_a_setting_fall_onto_the_detectors(grating, filter_name):
    low, high = WAVELENGTHS[grating, filter_name]
    nrs1, nrs2 = (get_optics(detector, grating, filter_name) for detector in ("NRS1", "NRS2"))
    # `jwst` expects nothing on the second detector of the medium gratings, nor of G140H with F070LP.
    alone = grating == "PRISM" or grating.endswith("M") or filter_name == "F070LP"
    assert nrs1.has_light and nrs2.has_light != alone
    for number in (0, 28, 29):
        seen = nrs1.pixels_of_slice(number).wavelength
        assert_allclose(seen.min(), max(low, SHORTEST_WAVELENGTH), rtol=0.02)
        seen = (nrs1 if alone else nrs2).pixels_of_slice(number).wavelength
        assert_allclose(seen.max(), high, rtol=0.01)


def test_gap_between_the_detectors_at_g395h_lies_where_the_real_one_does():
    """Each slice loses 0.1 um within 3.98-4.21 um (JDox "NIRSpec IFU Wavelength Ranges and Gaps")."""
    ends = np.array([pixels.wavelength.max() for pixels in optics_of("NRS1", "G395H").pixels])
    starts = np.array([pixels.wavelength.min() for pixels in optics_of("NRS2", "G395H").pixels])
    assert_allclose(starts - ends, 0.1, atol=0.015)
    assert 3.97 < ends.min() < ends.max() < 4.11
    assert 4.07 < starts.min() < starts.max() < 4.22
    # Hardly any slice sees 4.085-4.1 um.
    assert np.mean((ends < 4.085) & (starts > 4.1)) >= 0.6
    assert np.mean((ends < 4.09) & (starts > 4.09)) >= 0.8


def test_slices_do_not_share_pixels_and_keep_off_the_reference_pixels():
    for detector in ("NRS1", "NRS2"):
        optics = optics_of(detector, "G395H")
        pixels = optics.slice_map()
        assert (pixels > 0).sum() == sum(part.rows.size for part in optics.pixels)
        border = np.ones(pixels.shape, dtype=bool)
        border[4:-4, 4:-4] = False
        assert not pixels[border].any()


def test_pixels_at_the_ends_of_a_slice_are_covered_in_part():
    for pixels in optics_of("NRS1", "PRISM").pixels:
        length = np.bincount(pixels.columns, weights=pixels.coverage)[pixels.columns.min() : pixels.columns.max() + 1]
        # A slice is 3.2 arcsec long, a pixel 0.106; the slice's ends lie at any place within one.
        assert_allclose(np.median(length), 30, atol=0.8)
        assert pixels.coverage.max() == 1 and pixels.coverage.min() < 0.1


def test_few_samples_integrate_pixel_and_slice_as_well_as_many():
    optics = optics_of("NRS1", "PRISM")
    few, many = sample_pixels(optics), sample_pixels(optics, 5, 6)
    middle = np.array([NRS_APERTURE.v2_ref, NRS_APERTURE.v3_ref])

    def star(samples):
        square = (samples.v2 - middle[0] - 0.3) ** 2 + (samples.v3 - middle[1] - 0.2) ** 2
        return samples.weights @ np.exp(-4 * np.log(2) * square / 0.1**2)

    assert_allclose(few.weights.sum(), 1)
    assert_allclose(star(few), star(many), atol=5e-3)
    assert_allclose(star(few).sum(), star(many).sum(), rtol=2e-3)


def test_light_from_the_edges_of_a_slice_arrives_two_pixels_apart():
    optics = optics_of("NRS1", "G395M")
    pixels = optics.pixels_of_slice(4)
    x, y = pixels.columns[::501].astype(float), pixels.rows[::501].astype(float)
    apart = np.abs(optics.detector_to_slice(4, x, y, 0.5)[1] - optics.detector_to_slice(4, x, y, -0.5)[1])
    step = np.abs(optics.detector_to_slice(4, x + 1, y)[1] - optics.detector_to_slice(4, x, y)[1])
    assert_allclose((apart / step)[np.isfinite(step)], 2.0, atol=0.2)


def test_geometry_files_are_found_by_what_they_say_and_missing_ones_are_named(real_geometry, tmp_path):
    files = geometry_files(real_geometry, "G235H", "F170LP")
    assert files["disperser"].name == "disperser_G235H.asdf" and files["fore"].name == "fore_F170LP.asdf"
    with pytest.raises(FileFormatError, match="has no camera file for PRISM CLEAR"):
        get_elements("PRISM", "CLEAR", tmp_path)
    with pytest.raises(InputError, match="not a directory"):
        get_elements("PRISM", "CLEAR", tmp_path / "nowhere")
