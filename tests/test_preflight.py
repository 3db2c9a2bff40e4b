"""What a run needs is checked before its first task, and what is wrong is said first."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from conftest import ROOT, reduce
from crds_server import crds_server
from test_observations import MRS

import crds_references
import preflight
from crds_references import damaged_mappings, reference_damage
from errors import InputError
from miri_pipeline import MIRI
from nirspec_pipeline import NIRSPEC
from observations import sort_by_role
from pipeline import Task
from pipeline.executors import make_executor
from pipeline_input import Input, find_input
from preflight import DOUBTFUL, FINE, LOST, WRONG, Finding, check_input, format_findings
from product_sizes import bytes_needed, product_bytes
from reduction import Options, starting_products


def inputs(exposures, **fields) -> Input:
    roles = sort_by_role(exposures, "MIR_MRS")
    return Input(roles, starting_products(roles, "uncal"), **fields)


def check(exposures, backgrounds=(), options=None, **fields) -> list[tuple[str, str]]:
    findings = check_input(MIRI, options or Options(Path()), inputs(exposures, **fields), backgrounds)
    return [(finding.state, finding.text) for finding in findings]


def dithers(**changes):
    return [replace(MRS, dither=n, exposure_number=str(n), start=59896.4 + n, **changes) for n in (1, 2)]


def test_the_worst_is_said_first():
    findings = [Finding(state, state, "text") for state in (FINE, WRONG, DOUBTFUL, LOST)]
    assert [line.split()[0] for line in format_findings(findings).splitlines()] == [WRONG, LOST, DOUBTFUL, FINE]


def test_an_exposure_that_is_there_twice_is_wrong():
    first, second = dithers()
    copy = replace(first, path=Path("copy_uncal.fits"))
    ((state, text),) = check([first, second, copy])
    assert state == WRONG and "copy_uncal.fits" in text and first.path.name in text and "the same exposure" in text
    # Segments, other detectors and exposures whose header does not tell their start are no copies.
    others = [replace(first, sequence=("2",)), replace(first, detector="MIRIFULONG", channel="34")]
    assert [state for state, _ in check([first, *others, replace(first, start=None), replace(first, start=None)])] == [
        FINE
    ]


def test_targets_are_not_mixed_unseen():
    ((state, text),) = check([dithers()[0], dithers(target="TITAN")[1]])
    assert state == DOUBTFUL and "SATURN, TITAN" in text
    # The background is of another target by nature.
    assert {s for s, _ in check([*dithers(), replace(MRS, target="SKY", is_background=True)])} == {FINE}


def test_backgrounds_agree_in_mode_and_groups():
    sky = replace(MRS, is_background=True)
    assert check(dithers(), [sky])[1] == (FINE, "of the same modes and groups as the science exposures")
    ((state, text),) = check(dithers(), [replace(sky, groups=20)])[1:]
    assert state == DOUBTFUL and "MIRI 12 SHORT MIRIFUSHORT has 5 groups, its background 20" in text
    needing = Options(Path(), background_subtract=True)
    assert check(dithers(), [replace(sky, band="LONG")], needing)[1:2] == [
        (DOUBTFUL, "no background for MIRI 12 SHORT MIRIFUSHORT: not subtracted")
    ]
    assert len(check(dithers(), [replace(sky, groups=20)], Options(Path(), background_subtract=False))) == 1


def test_what_is_left_out_or_lost_is_named():
    acquisition = replace(MRS, exposure_type="MIR_TACQ", path=Path("ta_uncal.fits"))
    found = check([*dithers(), acquisition], damaged=["x is truncated"], options=Options(Path(), construct_flats=True))
    assert (LOST, "x is truncated") in found
    assert (DOUBTFUL, "ta_uncal.fits is left out: MIR_TACQ is no integral-field exposure") in found
    assert (DOUBTFUL, "no flat is constructed for 12 SHORT: 4 dithers needed, 2 there") in found


# --- kernels, memory, FFmpeg ----------------------------------------------------------------------------------------


def test_kernels_that_end_before_the_observation_are_wrong(raw_observation, monkeypatch):
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", raw_observation.environment["PLANETMAPPER_KERNEL_PATH"])
    found = find_input(MIRI, raw_observation.root, ["stage1"])
    options = Options(raw_observation.root)
    assert [f.state for f in preflight._check_kernels(options, found)] == [FINE]
    jupiter = Options(raw_observation.root, step_kwargs={"navigate": {"target": "jupiter"}})
    (finding,) = preflight._check_kernels(jupiter, found)
    assert finding.state == WRONG and "JUPITER" in finding.text.upper() and "download" in finding.text
    # One odd name does not stop the others.
    product = found.products[0]
    odd = raw_observation.root.parent / "odd_uncal.fits"
    shutil.copy(product.path, odd)
    fits.setval(odd, "TARGPROP", value="NOWHERE")
    fits.setval(odd, "TARGNAME", value="NOWHERE")
    exposure = replace(product.exposure, target="NOWHERE", path=odd)
    mixed = replace(found, products=[*found.products, replace(product, path=odd, exposure=exposure)])
    (finding,) = preflight._check_kernels(options, mixed)
    assert finding.state == LOST and "NOWHERE" in finding.text


@pytest.mark.parametrize("bound", ["EXPSTART", "EXPEND"])
def test_kernels_cover_every_exposure_as_a_whole(raw_observation, tmp_path, monkeypatch, bound):
    """A kernel that begins or ends within one exposure of many is found, and said once for a date."""
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", raw_observation.environment["PLANETMAPPER_KERNEL_PATH"])
    (tmp_path / "stage0").mkdir()
    paths = sorted((raw_observation.root / "stage0").iterdir())
    for number, path in enumerate(paths):
        copy = shutil.copy(path, tmp_path / "stage0")
        if number > 1:
            fits.setval(copy, bound, value=fits.getval(copy, "EXPMID") + (-500 if bound == "EXPSTART" else 500))
    options = Options(tmp_path)
    (finding,) = preflight._check_kernels(options, find_input(MIRI, tmp_path, ["stage1"]))
    assert finding.state == LOST
    assert "SATURN" in finding.text.upper() and ("2021-" if bound == "EXPSTART" else "2024-") in finding.text


def test_more_memory_than_there_is_is_doubtful(tmp_path):
    class PlanOfOne:
        root = tmp_path

    def finding(memory):
        task = Task("stage3", "a:b", {}, (), (tmp_path / "stage3/cube",), memory=memory)
        return preflight._check_memory(PlanOfOne, [task], make_executor(1, 2e9))

    assert finding(1e9).state == FINE
    assert finding(3e9).state == DOUBTFUL and "stage3/cube needs about 3.0 GB" in finding(3e9).text


def test_a_missing_ffmpeg_is_wrong(monkeypatch):
    def missing():
        raise InputError("no FFmpeg")

    assert preflight._check_ffmpeg().state == FINE
    monkeypatch.setattr("video.ffmpeg_path", missing)
    assert preflight._check_ffmpeg() == Finding(WRONG, "FFmpeg", "no FFmpeg")


# --- disk -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("instrument", "name"), [(MIRI, "observation"), (NIRSPEC, "nirspec_observation")])
def test_products_have_the_expected_sizes(request, instrument, name):
    """The law holds on a whole reduction: not less than it takes, not much more."""
    observation = request.getfixturevalue(name)
    run = json.loads((observation.root / "logs/run.json").read_text())
    root = observation.root
    tasks = [
        Task(t["step"], t["function"], {}, tuple(root / p for p in t["inputs"]), tuple(root / p for p in t["outputs"]))
        for t in run["tasks"]
    ]
    expected = product_bytes(instrument, tasks, {})
    actual = {path: path.stat().st_size for path in expected}
    assert 1.0 <= sum(expected.values()) / sum(actual.values()) < 1.25
    assert bytes_needed(instrument, tasks, [], {}, 4) == 0
    # All is there: what is made anew takes the room of the old one, and that of the largest task meanwhile.
    anew = bytes_needed(instrument, tasks, tasks, {}, 1)
    largest = max(sum(actual.get(path, 0) for path in (*task.inputs, *task.outputs)) for task in tasks)
    assert largest <= anew < sum(expected.values()) - sum(actual.values()) + 1.25 * largest


@pytest.mark.parametrize("instrument", [MIRI, NIRSPEC])
def test_every_step_has_a_size(instrument, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "Level3_g395m-f290lp_s3d.fits"
    raw.write_bytes(bytes(1000))
    for step in instrument.step_names:
        assert product_bytes(instrument, [Task(step, "a:b", {"groups": 1}, (raw,), (out,))], {raw: 2})[out] > 0


def test_cut_ramps_and_gratings_scale(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(1000))
    out = tmp_path / "out"
    cut = Task("remove_groups", "a:b", {"groups": 2}, (raw,), (out,))
    assert product_bytes(MIRI, [cut], {raw: 5}) == {out: 400}
    sizes = [NIRSPEC.cube_bytes(band) for band in ("prism-clear", "g395m-f290lp", "g395h-f290lp")]
    assert sizes == sorted(sizes)


# --- reference files ------------------------------------------------------------------------------------------------


def write_header(path, **cards):
    header = fits.Header({"INSTRUME": "MIRI", "BAND": "SHORT", "DATE-OBS": "2022-11-13", "TIME-OBS": "10:00:00.5"})
    header.update({name.replace("_", "-"): value for name, value in cards.items()})
    fits.PrimaryHDU(header=header).writeto(path)
    return path


def test_exposures_that_crds_can_not_tell_apart_are_looked_up_once(tmp_path, monkeypatch):
    selection = crds_references._Selection(
        {"MIRI": ("INSTRUME", "BAND")}, ["2022-11-13 11:00:00", "2023-01-01 00:00:00"]
    )
    asked = []

    def look_up(path, stages):
        asked.append(path.name)
        if path.name == "odd":
            raise ValueError("odd")
        return {Path(fits.getval(path, "BAND"))}

    monkeypatch.setenv("CRDS_PATH", str(tmp_path))
    monkeypatch.setenv("CRDS_SERVER_URL", "none")
    monkeypatch.setattr(crds_references, "_look_up", look_up)
    monkeypatch.setattr(crds_references._Selection, "of_context", lambda: selection)
    (tmp_path / "odd").write_text("no FITS")
    cards = {
        "first": {},
        "same": {"OBSERVTN": "2", "TIME_OBS": "10:59:59.9"},
        "later": {"TIME_OBS": "11:00:00.0"},
        "as late": {"DATE_OBS": "2022-12-31"},
        "other": {"BAND": "LONG"},
        "unknown": {"INSTRUME": "NIRSPEC"},
        "unknown too": {"INSTRUME": "NIRSPEC"},
    }
    paths = {name: write_header(tmp_path / name, **own) for name, own in cards.items()}
    stages = {"stage1": {"jump": {"skip": True}}}
    exposures = dict.fromkeys(paths.values(), stages) | {tmp_path / "odd": stages}
    # Other parameters ask for other files.
    exposures[write_header(tmp_path / "otherwise")] = {"stage1": {}}
    references, problems = crds_references.find_references(exposures)
    assert asked == ["first", "later", "other", "unknown", "unknown too", "odd", "otherwise"]
    assert references == {Path("SHORT"), Path("LONG")}
    assert problems == {tmp_path / "odd": "odd"}


def test_looking_up_once_finds_what_looking_up_each_does(raw_observation):
    """With CRDS and `jwst`: the four dithers are alike for it."""
    program = """
import sys
from pathlib import Path
import crds_references as c
paths = sorted(Path(sys.argv[1]).iterdir())
stages = {"stage1": {}, "stage3": {}}
asked, look_up = [], c._look_up
def counted(path, stages):
    asked.append(path)
    return look_up(path, stages)
c._look_up = counted
found, problems = c.find_references(dict.fromkeys(paths, stages))
each = set().union(*(look_up(path, stages) for path in paths))
print(len(paths), len(asked), len(found), found == each, problems)
"""
    command = [sys.executable, "-c", program, str(raw_observation.root / "stage0")]
    environment = {**os.environ, **raw_observation.environment, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    paths, asked, found, *same = result.stdout.split()
    assert (paths, asked, same) == ("4", "1", ["True", "{}"]) and int(found) > 5


@pytest.fixture
def references(tmp_path):
    data = np.arange(6000.0).reshape(60, 100)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, name="SCI")]).writeto(tmp_path / "a.fits", checksum=True)
    (tmp_path / "b.json").write_text('{"a": 1}')
    import asdf

    asdf.AsdfFile({"a": data}).write_to(tmp_path / "c.asdf")
    return tmp_path


@pytest.mark.parametrize("name", ["a.fits", "b.json", "c.asdf"])
def test_damage_is_seen_without_a_catalogue(references, name):
    path = references / name
    assert reference_damage(path, {}) is None
    content = path.read_bytes()
    for size in (0, len(content) // 3, len(content) - 7 if name != "c.asdf" else len(content) // 2):
        path.write_bytes(content[:size])
        assert reference_damage(path, {}) is not None
    path.unlink()
    assert reference_damage(path, {}) == "it is not there"
    if name != "b.json":
        middle = len(content) * 2 // 3
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :])
        assert reference_damage(path, {}) is not None


def test_damage_is_seen_by_the_catalogue(references):
    path = references / "b.json"
    entry = {"size": "8", "sha1sum": hashlib.sha1(path.read_bytes()).hexdigest()}
    assert reference_damage(path, {"b.json": entry}) is None
    assert reference_damage(path, {"b.json": {**entry, "sha1sum": "none"}}) is None
    assert reference_damage(path, {"b.json": {**entry, "size": "9"}}) == "it has 8 bytes instead of 9"
    path.write_text('{"a": 2}')
    assert "SHA-1" in reference_damage(path, {"b.json": entry})


@pytest.fixture
def data(raw_observation, tmp_path):
    """One raw exposure, and a CRDS cache of its own."""
    (tmp_path / "stage0").mkdir()
    raw = next((raw_observation.root / "stage0").iterdir())
    os.link(raw, tmp_path / "stage0" / raw.name)
    cache = tmp_path / "crds"
    shutil.copytree(raw_observation.environment["CRDS_PATH"], cache)
    return replace(raw_observation, root=tmp_path, environment=raw_observation.environment | {"CRDS_PATH": str(cache)})


def test_damaged_mappings_are_told_from_sound_ones(data, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", str(data.root / "crds"))
    assert damaged_mappings() == []
    path = data.root / "crds/mappings/jwst/jwst_miri_flat_0001.rmap"
    path.write_bytes(path.read_bytes()[:-100])
    assert damaged_mappings() == [path]


def test_a_damaged_reference_file_is_named_before_any_work(data):
    path = data.root / "crds/references/jwst/miri/jwst_miri_flat_0001.fits"
    path.write_bytes(path.read_bytes()[:-2880])
    result = reduce(data, "--check", "--basic_navigation")
    assert result.status == 2
    lines = result.output.splitlines()
    assert lines[0].startswith("wrong     references") and str(path) in lines[0] and "truncated" in lines[0]
    assert [line.split()[0] for line in lines[1:-1]] == ["fine"] * len(lines[1:-1])
    assert lines[-1].startswith("error: ") and str(path) in lines[-1]
    assert not (data.root / "stage1").exists()


def test_damaged_and_missing_reference_files_are_fetched_anew(data, raw_observation):
    cache = data.root / "crds"
    damaged = [cache / "references/jwst/miri/jwst_miri_flat_0001.fits"]
    damaged.append(cache / "mappings/jwst/jwst_miri_fringe_0001.rmap")
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    missing = cache / "references/jwst/miri/jwst_miri_photom_0001.fits"
    missing.unlink()
    with crds_server(Path(raw_observation.environment["CRDS_PATH"])) as (address, fetched):
        environment = data.environment | {"CRDS_SERVER_URL": address}
        result = reduce(replace(data, environment=environment), "--check", "--basic_navigation")
    assert result.status == 0, result.output
    for path in damaged:
        assert f"{path} was damaged" in result.output
    assert sorted(fetched) == sorted(path.name for path in [*damaged, missing])
    for path in [*damaged, missing]:
        assert (
            path.read_bytes() == (Path(raw_observation.environment["CRDS_PATH"]) / path.relative_to(cache)).read_bytes()
        )
