"""Bad input is one sentence and status 2 before any work, whatever the instrument."""

import shutil
import subprocess
from dataclasses import replace

import pytest
from astropy.io import fits
from conftest import reduce

import miri_pipeline
import nirspec_pipeline

MAINS = {"miri": miri_pipeline.main, "nirspec": nirspec_pipeline.main}
OTHER = {"miri": "nirspec", "nirspec": "miri"}


@pytest.fixture(params=MAINS)
def raw(request):
    """Raw exposures of each instrument."""
    return request.getfixturevalue({"miri": "raw_observation", "nirspec": "raw_nirspec_observation"}[request.param])


@pytest.fixture
def exposure(raw):
    """One raw exposure."""
    return min((raw.root / "stage0").iterdir())


@pytest.fixture
def refused(raw, tmp_path, monkeypatch, capsys):
    """Runs the raw exposures' pipeline on a root; its one sentence must have some parts."""
    for name, value in raw.environment.items():
        monkeypatch.setenv(name, value)

    def call(*parts, root=tmp_path, flags=()):
        assert MAINS[raw.instrument]([str(root), *flags]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert said[-1].startswith("error: ")
        for part in parts:
            assert str(part) in said[-1]

    return call


def test_missing_root(refused, tmp_path):
    refused("nowhere", "does not exist", root=tmp_path / "nowhere")


def test_missing_stage0(refused):
    refused("stage0")


def test_no_raw_files(refused, tmp_path):
    (tmp_path / "stage0").mkdir()
    refused("stage0", "_uncal.fits")


def test_not_a_fits_file(refused, tmp_path):
    (tmp_path / "stage0").mkdir()
    (tmp_path / "stage0" / "a_uncal.fits").write_text("no FITS file")
    refused("a_uncal.fits", "not a FITS file")


def test_truncated_file(refused, exposure, tmp_path):
    (tmp_path / "stage0").mkdir()
    (tmp_path / "stage0" / exposure.name).write_bytes(exposure.read_bytes()[:100_000])
    refused(exposure.name, "truncated")


def test_the_other_instruments_data(refused, raw, exposure, tmp_path):
    (tmp_path / "stage0").mkdir()
    other = OTHER[raw.instrument]
    with fits.open(exposure) as hdul:
        hdul[0].header["INSTRUME"] = other.upper()
        hdul.writeto(tmp_path / "stage0" / exposure.name)
    refused(other.upper(), f"{other}_pipeline.py")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--skip_steps", "navigat"], ["'navigat'", "did you mean 'navigate'"]),
        (["--start-step", "stage9"], ["'stage9'", "did you mean"]),
        (["--step_kwargs", "{not json"], ["{not json", "JSON"]),
        (["--step_kwargs", '{"navgate": {}}'], ["'navgate'", "did you mean 'navigate'"]),
        (["--step_kwargs", '{"navigate": {"ra_ofset": 1}}'], ["'ra_ofset'", "did you mean 'ra_offset'"]),
        (["--step_kwargs", '{"stage1": {"jmp": {}}}'], ["'jmp'", "did you mean 'jump'"]),
        (["--step_kwargs", '{"stage1": {"jump": {"skp": true}}}'], ["'skp'", "did you mean 'skip'"]),
        (["--parallel", "7"], ["'7'", "fraction"]),
        (["--cube_build_weighting", "best"], ["'best'", "drizzle"]),
        (["--background_path", "/nowhere"], ["/nowhere"]),
    ],
)
def test_wrong_options(refused, raw, flags, parts):
    refused(*parts, root=raw.root, flags=flags)


def one_sentence(observation):
    """The end of what its pipeline says in a process of its own: CRDS remembers its cache, and warns."""
    result = reduce(observation)
    assert result.status == 2 and "Traceback" not in result.output
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def test_missing_reference_files(raw, exposure, tmp_path):
    (tmp_path / "crds").mkdir()
    (tmp_path / "stage0").mkdir()
    shutil.copy(exposure, tmp_path / "stage0")
    environment = {**raw.environment, "CRDS_PATH": str(tmp_path / "crds")}
    said = one_sentence(replace(raw, root=tmp_path, environment=environment))
    assert "CRDS" in said and str(tmp_path) in said


@pytest.mark.parametrize("name", ["#1", "what?", "100%25"])
def test_a_crds_path_that_no_reference_file_can_be_opened_below(refused, raw, tmp_path, monkeypatch, name):
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / name))
    refused("CRDS_PATH", name, root=raw.root)


def test_missing_kernels(refused, raw, tmp_path, monkeypatch):
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", str(tmp_path / "none"))
    refused("SPICE kernels", tmp_path / "none", root=raw.root)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs more rights")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_no_space_on_disk(raw, exposure, small_disk):
    (small_disk / "stage0").mkdir()
    shutil.copy(exposure, small_disk / "stage0")
    said = one_sentence(replace(raw, root=small_disk))
    assert str(small_disk) in said and "GB" in said and "free" in said
    assert sorted(path.name for path in small_disk.iterdir()) == ["stage0"]


def test_dry_run_makes_nothing(raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", raw.environment["PLANETMAPPER_KERNEL_PATH"])
    shutil.copytree(raw.root / "stage0", tmp_path / "stage0")
    assert MAINS[raw.instrument]([str(tmp_path), "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "stage3/combined/Level3_" in said and "_s3d_nav.fits" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage0"]
