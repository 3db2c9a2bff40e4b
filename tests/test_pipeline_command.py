"""`python -m pipeline`: how things stand in a root, and two roots side by side; removing what can be made again."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from engine_steps import chain_plan, products

import miri_pipeline
import nirspec_pipeline
import pipeline_command
from cube_comparison import Tolerances, compare_cubes, compare_roots
from errors import DataRootError, FileFormatError, InputError, OptionError
from miri_pipeline import MIRI
from pipeline import Plan, RunLocked, Task, run_plan
from pipeline.__main__ import main
from pipeline.cleaning import describe_sizes, remakeable_files, remove_files
from pipeline.housekeeping import root_lock
from pipeline.status import root_status

SHAPE = (12, 21, 23)
SPAXEL_MAS = 130.0


@pytest.fixture
def root(tmp_path):
    return tmp_path / "Saturn \N{GREEK SMALL LETTER ALPHA}"


def states_of(root: Path) -> dict[str, str]:
    """State and name of the tasks that are not done, with the reasons."""
    return {state.name: f"{state.state}: {state.reason}" for state in root_status(root)[0] if state.state != "done"}


# status


def test_all_is_done_after_a_run(root, capsys):
    run_plan(chain_plan(root), quiet=True, command=["miri_pipeline.py", "x"])
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert main(["status", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("finished, miri_pipeline.py x")
    assert [line.split() for line in lines[1:]] == [
        ["step", "done", "stale", "missing", "failed"],
        ["stage1", "4", "0", "0", "0"],
        ["stage2", "4", "0", "0", "0"],
        ["stage3", "1", "0", "0", "0"],
    ]
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_what_has_changed_makes_stale_what_depends_on_it(root, capsys):
    run_plan(chain_plan(root), quiet=True)
    (root / "stage0/exposure 1.txt").write_text("other photons")
    (root / "stage2/exposure 3.txt").write_text("altered by hand")
    (root / "stage1/exposure 2.txt").unlink()
    assert states_of(root) == {
        "stage1/exposure 1.txt": "stale: its input has changed (stage0/exposure 1.txt)",
        "stage2/exposure 1.txt": "stale: because of stage1 stage1/exposure 1.txt",
        "stage1/exposure 2.txt": "missing: not there any more",
        "stage2/exposure 3.txt": "stale: changed since it was made",
        "stage3/combined/cube.txt": "stale: its input has changed (stage2/exposure 3.txt)",
    }
    assert main(["status", str(root)]) == 1
    assert "stage1  stage1/exposure 2.txt: not there any more" in capsys.readouterr().out


def test_failures_and_what_was_never_made_are_told_apart(root):
    plan = chain_plan(root, n_exposures=2)
    broken = Task("stage1", "engine_steps:write_nothing", {"path_out": root / "x"}, (), (root / "x",))
    run_plan(Plan(root, [*plan.tasks, broken]), quiet=True)
    assert states_of(root)["x"].startswith("failed: engine_steps:write_nothing did not write x (log: logs/stage1/x")
    run = json.loads((root / "logs/run.json").read_text())
    run["tasks"].append({**run["tasks"][0], "outputs": ["stage9/never"], "status": "waiting", "step": "stage9"})
    (root / "logs/run.json").write_text(json.dumps({**run, "status": "running"}))
    assert states_of(root)["stage9/never"] == "missing: not made yet"
    assert "or it was killed" in root_status(root)[1]


def test_code_that_has_changed_is_seen(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "module_of_status.py"
    module.write_text("def make(path_out):\n    path_out.write_text('1')\n")
    run_plan(Plan(root, [Task("s", "module_of_status:make", {"path_out": root / "o"}, (), (root / "o",))]), quiet=True)
    assert states_of(root) == {}
    module.write_text("def make(path_out):\n    path_out.write_text('2')\n")
    assert states_of(root) == {"o": "stale: the code has changed"}
    module.unlink()
    assert states_of(root) == {"o": "stale: the code has changed"}


def test_a_root_without_runs_is_one_sentence(root, capsys):
    assert main(["status", str(root)]) == 2
    root.mkdir()
    with pytest.raises(InputError, match="nothing has been run"):
        root_status(root)
    (root / "logs").mkdir()
    (root / "logs/run.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        root_status(root)


# cleaning


def test_only_what_can_be_made_again_is_removed(root):
    run_plan(chain_plan(root), quiet=True)
    undisturbed = products(root)
    (root / "stage1/by hand.txt").write_text("the user's own")
    (root / "stage1/exposure 0.txt").write_text("altered by the user")
    (root / "stage0/exposure 1.txt").rename(root / "elsewhere")
    paths = remakeable_files(root, ["stage0", "stage1", "stage2"])
    # That of exposure 1 can not be made, and so nothing of it; that of exposure 0 is no longer as it was made.
    names = ["stage1/exposure 2.txt", "stage1/exposure 3.txt"]
    names += ["stage2/exposure 0.txt", "stage2/exposure 2.txt", "stage2/exposure 3.txt"]
    assert sorted(str(path.relative_to(root)) for path in paths) == names
    table = [line.split() for line in describe_sizes(root, paths).splitlines()]
    assert [row[:2] for row in table] == [["directory", "files"], ["stage1", "2"], ["stage2", "3"], ["together", "5"]]
    with root_lock(root), pytest.raises(RunLocked):
        remove_files(root, paths)
    remove_files(root, paths)
    assert not any(path.exists() for path in paths)
    assert (root / "stage3/combined/cube.txt").exists()
    (root / "elsewhere").rename(root / "stage0/exposure 1.txt")
    (root / "stage1/by hand.txt").unlink()
    assert run_plan(chain_plan(root), quiet=True).exit_status == 0
    assert products(root) == undisturbed


def test_nothing_is_removed_from_stage0_by_way_of_a_link(root):
    (root / "stage0").mkdir(parents=True)
    (root / "stage0/a").write_text("x")
    arguments = {"path_in": root / "stage0/a", "path_out": root / "stage1/b"}
    task = Task("stage1", "engine_steps:touch", arguments, (root / "stage0/a",), (root / "stage1/b",))
    run_plan(Plan(root, [task]), quiet=True)
    (root / "stage0/b").write_text("x")
    (root / "stage1/b").unlink()
    (root / "stage1").rmdir()
    os.symlink(root / "stage0", root / "stage1")
    assert remakeable_files(root, ["stage1"]) == []


# the flags that do this, and settings files


@pytest.fixture
def parsed(monkeypatch):
    """Calls the MIRI command line and gives what it would run with."""
    calls = []
    monkeypatch.setattr(pipeline_command, "run_pipeline", lambda *arguments, **options: calls.append(options))

    def call(*argv) -> dict:
        assert pipeline_command.main(MIRI, "miri_pipeline.py", ["ROOT", *map(str, argv)]) == 0
        return {name: value for name, value in calls.pop().items() if name != "command"}

    return call


CONFIG = """
skip-steps = ["plot", "animate"]
parallel = 0.5
background_subtract = false
defringe_1d = "both"
correct_psf = true
groups_to_use = [1, 3]
overwrite = false
desaturate = "ramp"
background_path = "/data/it's \\"here\\""

[step_kwargs.stage1.jump]
rejection_threshold = 5.0
"""


def test_a_settings_file_says_what_flags_say_and_flags_win(parsed, tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(CONFIG)
    flags = ["--skip_steps", "plot", "animate", "--parallel", "0.5", "--no_background_subtract", "--both_defringe_1d"]
    flags += ["--correct_psf", "--groups_to_use", "1,3", "--desaturate", "ramp", "--background_path"]
    flags += ['/data/it\'s "here"', "--step_kwargs", '{"stage1": {"jump": {"rejection_threshold": 5.0}}}']
    assert parsed("--config", path) == parsed(*flags)
    won = parsed("--config", path, "--skip_steps", "psf", "--both_background_subtract", "--parallel", "--quiet")
    expected = {"skip_steps": ["psf"], "background_subtract": "both", "parallel": True, "quiet": True}
    assert won == parsed(*flags) | expected


@pytest.mark.parametrize("name", ["settings", "one"])
def test_the_settings_that_a_run_wrote_repeat_it(parsed, tmp_path, name):
    settings = parsed("--skip_steps", "psf", "--memory_limit", "16GB", "--groups_to_use", "2,3", "--desaturate")
    settings |= {"step_kwargs": {"navigate": {"ra_offset": -0.25, "a name \N{GREEK SMALL LETTER ALPHA}": None}}}
    written = {"instrument": "MIRI", "steps": ["stage1"], **settings}
    written = {name: value for name, value in written.items() if name not in ("dry_run", "check")}
    root = tmp_path / name
    run_plan(chain_plan(root), quiet=True, settings=written)
    kept = parsed("--config", root / "logs/run.toml")
    assert kept == settings | {"step_kwargs": {"navigate": {"ra_offset": -0.25}}}
    run_plan(chain_plan(root), quiet=True, settings={})
    assert len(list((root / "logs").glob("run-*.toml"))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skip_step = []", "'skip_step', which is no setting; did you mean 'skip_steps'?"),
        ("parallel = 7", "fraction"),
        ("parallel = ", "no TOML"),
        ("root_path = '/'", "no setting"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path, capsys, text, message):
    path = tmp_path / "settings.toml"
    path.write_text(text)
    assert pipeline_command.main(MIRI, "miri_pipeline.py", [str(tmp_path), "--config", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert pipeline_command.main(MIRI, "miri_pipeline.py", [str(tmp_path), "--config", str(tmp_path / "none")]) == 2
    assert "can not be read" in capsys.readouterr().err


def test_the_clean_flag_shows_sizes_and_asks(root, capsys, monkeypatch):
    run_plan(chain_plan(root), quiet=True)

    def clean(*flags) -> int:
        return pipeline_command.main(MIRI, "miri_pipeline.py", [str(root), "--clean", "intermediates", *flags])

    assert clean() == 2
    out, err = capsys.readouterr()
    assert "together" in out and "--yes" in err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "")
    assert clean() == 1
    assert len(list(root.glob("stage[12]/*"))) == 8
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert clean() == 0
    assert list(root.glob("stage[12]/*")) == []
    assert len(list(root.glob("stage0/*"))) == 4
    assert (root / "stage3/combined/cube.txt").exists()
    assert clean("--yes") == 0
    assert "nothing" in capsys.readouterr().out


# as functions


@pytest.mark.parametrize("script", [miri_pipeline, nirspec_pipeline])
def test_the_scripts_are_functions_with_named_options(script, tmp_path):
    named = {"skip_steps": ["plot"], "start_step": "stage2", "end_step": "despike", "parallel": 0.5, "desaturate": True}
    named |= {"groups_to_use": [1, 2], "background_subtract": "both", "step_kwargs": {"navigate": {"ra_offset": 0.1}}}
    # All options are accepted: what is refused in the end is the folder.
    with pytest.raises(DataRootError, match="neither 'stage0' nor"):
        script.run_pipeline(tmp_path, **named, dry_run=True, quiet=True)
    for wrong, near in (("skip_step", "skip_steps"), ("desaturated", "desaturate"), ("Root", "root_path")):
        with pytest.raises(OptionError, match=f"'{wrong}' is not an option of the .* did you mean '{near}'"):
            script.run_pipeline(tmp_path, **{wrong: True})


def test_an_instrument_without_fringes_has_no_switches_for_them(tmp_path, capsys):
    with pytest.raises(OptionError, match="'defringe_1d' is not an option of the NIRSPEC pipeline"):
        nirspec_pipeline.run_pipeline(tmp_path, defringe_1d=True)
    with pytest.raises(SystemExit):
        nirspec_pipeline.main([str(tmp_path), "--defringe"])
    assert "--defringe" in capsys.readouterr().err


# compare


def write_cube(path: Path, factor: float = 1.0, shift: float = 0.0, header_shift: float = 0.0, n_nan=0, **keys) -> Path:
    """A cube of a round body with a belt, shifted by spaxels along x; `header_shift` [spaxels] along x in the WCS."""
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]].astype(float)
    distance = np.hypot(x - 11 - shift, y - 10)
    image = 100 / (1 + np.exp((distance - 7) / 1.5)) * (1 + 0.3 * np.cos((x - shift) / 3)) + 0.01
    sci = (factor * image * np.linspace(1, 2, SHAPE[0])[:, None, None]).astype(np.float32)
    sci[0, 0, :n_nan] = np.nan
    hdul = fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.ImageHDU(sci, name="SCI"),
            fits.ImageHDU(np.full(SHAPE, 0.5, np.float32), name="ERR"),
            fits.ImageHDU(np.zeros(SHAPE, np.uint32), name="DQ"),
        ]
    )
    degrees = SPAXEL_MAS / 3.6e6
    hdul["SCI"].header.update(
        CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CTYPE3="WAVE", CUNIT1="deg", CUNIT2="deg", CUNIT3="um", CRVAL1=359.9999,
        CRVAL2=60.0, CRVAL3=5.0, CRPIX1=12.0 + header_shift, CRPIX2=11.0, CRPIX3=1.0, CDELT1=-degrees, CDELT2=degrees,
        CDELT3=0.001,
    )  # fmt: skip
    hdul[0].header.update(keys)
    path.parent.mkdir(parents=True, exist_ok=True)
    hdul.writeto(path)
    return path


def test_a_cube_is_like_itself(tmp_path):
    path = write_cube(tmp_path / "a_s3d.fits")
    difference = compare_cubes(path, path)
    assert (difference.ratio, difference.scatter, difference.nan_once, difference.keywords) == (1, 0, 0, ())
    assert difference.position < 1e-3
    assert difference.exceeds(Tolerances(headers=True)) == []


@pytest.mark.parametrize(("shift", "header_shift"), [(0.2, 0.0), (0.0, 0.2), (-0.1, 0.1), (0.2, 0.2)])
def test_shifts_of_scene_and_header_are_one_position(tmp_path, shift, header_shift):
    """A scene that moves with its header has not moved on the sky."""
    a = write_cube(tmp_path / "a_s3d.fits")
    b = write_cube(tmp_path / "b_s3d.fits", factor=1.02, shift=shift, header_shift=header_shift)
    difference = compare_cubes(a, b)
    assert difference.position == pytest.approx(abs(shift - header_shift) * SPAXEL_MAS, abs=1.0)


def test_flux_nan_and_headers(tmp_path):
    a = write_cube(tmp_path / "a_s3d.fits", CAL_VER="1", DATE="2022-01-01")
    b = write_cube(tmp_path / "b_s3d.fits", factor=1.02, n_nan=3, CAL_VER="2", DATE="2023-01-01", NEW=1)
    difference = compare_cubes(a, b)
    assert difference.ratio == pytest.approx(1.02, abs=1e-6)
    assert difference.nan_once == difference.nan_b == 3 / np.prod(SHAPE)
    assert difference.keywords == ("PRIMARY CAL_VER", "PRIMARY NEW")
    assert difference.exceeds(Tolerances(nan=1e-4, flux=0.01)) == ["NaN", "flux"]
    assert difference.exceeds(Tolerances(nan=1e-3, flux=0.03)) == []
    assert difference.exceeds(Tolerances(nan=1e-3, flux=0.03, headers=True)) == ["headers"]


def test_cubes_without_common_voxels_have_no_ratio(tmp_path):
    a, b = (write_cube(tmp_path / f"{name}_s3d.fits") for name in "ab")
    with fits.open(b, mode="update") as hdul:
        hdul["SCI"].data[:] = np.nan
    difference = compare_cubes(a, b)
    assert np.isnan([difference.ratio, difference.position]).all()
    assert difference.exceeds(Tolerances()) == ["NaN"]


def test_roots_are_compared_name_by_name(tmp_path, capsys):
    roots = [tmp_path / name for name in ("old", "new")]
    for root in roots:
        write_cube(root / "stage3/d1/Level3_ch1-short_s3d.fits", CRDS_CTX=root.name)
        write_cube(root / "stage5_despike/d1/Level3_ch1-short_s3d_nav.fits", factor=1.0 + 0.01 * (root == roots[1]))
    assert main(["compare", *map(str, roots)]) == 1
    out = capsys.readouterr().out
    assert "flux ratio 1.010000" in out
    assert "<- flux" in out
    assert "PRIMARY CRDS_CTX (1)" in out
    assert main(["compare", *map(str, roots), "--flux", "0.02"]) == 0
    assert main(["compare", *map(str, roots), "--flux", "0.02", "--headers"]) == 1
    capsys.readouterr()
    write_cube(roots[0] / "stage3/d2/Level3_ch1-short_s3d.fits")
    assert main(["compare", *map(str, roots), "--flux", "0.02"]) == 1
    assert f"stage3/d2/Level3_ch1-short_s3d.fits: only in {roots[0]}" in capsys.readouterr().out


def test_roots_that_can_not_be_compared(tmp_path, capsys):
    write_cube(tmp_path / "a/stage3/d1/a_s3d.fits")
    (tmp_path / "b").mkdir()
    with pytest.raises(DataRootError, match="no cubes"):
        compare_roots(tmp_path / "a", tmp_path / "b", Tolerances())
    (tmp_path / "b/stage3/d1").mkdir(parents=True)
    (tmp_path / "b/stage3/d1/a_s3d.fits").write_text("no FITS")
    text, alike = compare_roots(tmp_path / "a", tmp_path / "b", Tolerances())
    assert not alike and "not a readable FITS file" in text
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "nowhere")]) == 2
    small = write_cube(tmp_path / "small_s3d.fits")
    with fits.open(small, mode="update") as hdul:
        for name in ("SCI", "ERR", "DQ"):
            hdul[name].data = hdul[name].data[1:]
    with pytest.raises(FileFormatError, match="can not be compared"):
        compare_cubes(tmp_path / "a/stage3/d1/a_s3d.fits", small)
