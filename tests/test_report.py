"""The report shows what the files tell, in valid HTML, and nothing in the files can take it over."""

import base64
import io
import json
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import html5lib
import numpy as np
import pytest
from conftest import run
from PIL import Image
from report_roots import FAILED_LOG, FRINGES_REMOVED, PLACES, SCRIPT, SHAPE, SPIKE, make_root, write_cube

from cube_files import find_cubes, group_cubes
from cubes import read_cube
from instrument_pipeline import run_pipeline
from miri_pipeline import MIRI
from report import main, report_content, write_report
from report_content import gallery
from report_cubes import encode_picture, summarise_cubes, telling_plane, voxel_counts

NAMESPACE = "{http://www.w3.org/1999/xhtml}"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_root(tmp_path_factory.mktemp("report") / "a \"root\" with 'quotes' & ümlauts #1")
    write_report(root)
    return root


def parse(root: Path):
    """The page, by a parser that takes every offence against HTML5 for an error."""
    return html5lib.HTMLParser(strict=True).parse((root / "report/index.html").read_text(encoding="utf-8"))


def elements(page, name):
    return list(page.iter(f"{NAMESPACE}{name}"))


def words(element) -> str:
    return " ".join("".join(element.itertext()).split())


def section(page, name) -> str:
    return words(next(element for element in elements(page, "section") if element.get("id") == name))


def pixels(picture: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGBA"))


# the page


def test_hostile_texts_stay_texts(root):
    page = parse(root)
    assert words(elements(page, "title")[0]) == f"{SCRIPT}, MIRI: report"
    (script,) = elements(page, "script")
    assert "use strict" in script.text
    for element in page.iter():
        assert not any(name.startswith("on") for name in element.attrib)
    for name in ("problems", "observation", "run", "tasks"):
        assert SCRIPT in section(page, name)


def test_every_link_and_picture_is_there(root):
    page = parse(root)
    paths = [element.get("href") or element.get("src") for element in page.iter()]
    paths += [element.get("data-plot") for element in page.iter()]
    paths = {path for path in paths if path and not path.startswith(("#", "data:"))}
    assert all((root / "report" / unquote(path)).is_file() for path in paths)
    linked = {unquote(path).removeprefix("../") for path in paths}
    assert {FAILED_LOG, "logs/run.toml"} <= linked
    assert sum(path.endswith(".png") for path in linked) == 2 * len(PLACES)
    assert sum(path.endswith(".mp4") for path in linked) == 1
    ids = {element.get("id") for element in page.iter()}
    assert all(a.get("href")[1:] in ids for a in elements(page, "a") if a.get("href").startswith("#"))


def test_failures_come_first_with_the_end_of_their_logs(root):
    page = parse(root)
    assert elements(page, "section")[0].get("id") == "problems"
    said = section(page, "problems")
    assert f"despike failed: ValueError: {SCRIPT}" in said and "ValueError: no light" in said
    assert "plot did not run: because x failed" in said and f"despike: too many spikes {SCRIPT}" in said
    status = next(element for element in elements(page, "p") if "status" in element.get("class", ""))
    assert words(status) == "finished, 4 tasks, 1 failed, 1 not run, 1 as before"
    assert status.get("class") == "status bad"


def test_the_run_is_described(root):
    said = section(parse(root), "run")
    for text in ("jwst_1322.pmap", "3.0.0", "naif0012.tls", "predicted, so less certain", "2 SPICE kernels"):
        assert text in said
    content = report_content(root)
    assert [option["name"] for option in content["run"]["options"] if option["changed"]] == ["despike"]
    costs = {cost["step"]: cost for cost in content["costs"]}
    assert (costs["despike"]["seconds"], costs["despike"]["before"], costs["stage1"]["before"]) == (2.5, 0, 1.25)
    # Done by another run than the last.
    earlier = [task["name"] for task in content["tasks"] if task["status"] == "earlier run"]
    assert earlier == [FRINGES_REMOVED]


def test_numbers_are_those_of_the_cubes(root):
    content = report_content(root)
    table = content["table"]
    assert [(row["band"], row["variant"]) for row in table["rows"]] == [
        ("1A", ""), ("1A", "fringe1d"), ("2A", ""), ("2A", "fringe1d")
    ]  # fmt: skip
    assert [column["place"] for column in table["columns"]] == ["d1", "d2", "combined"]
    before, after = table["rows"][0]["cells"][0]["stages"]
    # One row of spaxels has no value anywhere and is not in the field.
    field = SHAPE[0] * (SHAPE[1] - 1) * SHAPE[2]
    assert before["invalid"] == 0 and after["invalid"] == pytest.approx(1 / field)
    (plain, fringe1d) = (row for row in content["corrections"] if row["band"] == "1A")
    assert plain["spikes"] == pytest.approx(1 / (field - 1)) and plain["dithers"] == 2
    assert plain["fringes"] is None and fringe1d["fringes"] == 0.0175
    assert plain["recovered"] is plain["flat_rms"] is None
    said = section(parse(root), "pointing")
    assert "1A d1, 2A d1 +12.3 ± 4.0 -4.5 ± 2.0" in said and "2A combined fringe1d as in the header" in said
    assert f"d1/a.fits +20.0 ± 5.0 -4.0 ± 3.0 d2/a.fits nothing found no limb {SCRIPT}" in said


def test_a_finished_root_is_not_summarised_again(root):
    summaries = {path: path.stat().st_mtime_ns for path in (root / "report/cubes").rglob("*.json")}
    assert len(summaries) == 2 * len(PLACES)
    page = (root / "report/index.html").read_bytes()
    write_report(root)
    assert {path: path.stat().st_mtime_ns for path in summaries} == summaries
    assert (root / "report/index.html").read_bytes() == page


def test_it_is_made_by_hand_from_any_directory(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(copy / "report")
    (damaged := copy / "stage5_despike/d2/Level3_ch1-short_s3d_nav.fits").write_bytes(b"no cube")
    result = run("report.py", copy, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(copy / "report/index.html")
    page = parse(copy)
    assert f"not shown: {damaged}" in section(page, "problems")
    assert "1A d1" in words(page)


def test_names_that_are_not_utf_8_are_linked(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / os.fsdecode(b"caf\xe9"))
    video = copy / "animation/stage5_despike/dither_comparison" / os.fsdecode(b"\xe9t\xe9.mp4")
    shutil.copy(next(video.parent.iterdir()), video)
    write_report(copy)
    sources = [element.get("src") for element in elements(parse(copy), "video")]
    assert any((copy / "report" / os.fsdecode(unquote_to_bytes(source))).samefile(video) for source in sources)


def test_roots_with_little_in_them(root, tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    # A run without a cube, and a cube without a run.
    shutil.copytree(root / "logs", tmp_path / "run/logs")
    write_report(tmp_path / "run")
    assert "1 failed" in words(parse(tmp_path / "run"))
    write_cube(tmp_path / "cube/stage3/d1/Level3_g395h-f290lp_s3d.fits", np.ones(SHAPE))
    (tmp_path / "cube/logs").mkdir()
    (tmp_path / "cube/logs/run.json").write_text("[1, 2")
    write_report(tmp_path / "cube")
    said = words(parse(tmp_path / "cube"))
    assert "no run recorded" in said and "G395H/F290LP" in said and "no offset was given or fitted" in said


# which cubes belong together


def test_stages_of_one_cube_are_found_by_place_and_name(tmp_path):
    names = ("stage3/d1_bg/Level3_o1_ch1-short_s3d.fits", "stage3/d1_bg/Level3_o1_ch1-short_s3d_nav.fits",
             "stage4_flat/d1_bg/Level3_o1_ch1-short_s3d_nav.fits", "stage3/d1/Level3_o1_ch1-short_s3d.fits",
             "stage3/d1/Level3_ch1-short_spec3_asn.json", "groups/2_groups/stage3/d1/Level3_ch1-short_s3d.fits",
             "stage1/d1/Level3_ch1-short_s3d.fits")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    plain, subtracted = find_cubes(tmp_path)
    assert plain.paths == (tmp_path / names[3],)
    assert subtracted.paths == (tmp_path / names[1], tmp_path / names[2])
    parts = (subtracted.place, subtracted.variant, subtracted.tile, subtracted.band)
    assert parts == ("d1", "bg", "o1", "ch1-short")
    assert group_cubes([]) == []


def test_dithers_of_all_tiles_are_in_the_order_of_their_numbers(tmp_path):
    places = ("combined/Level3_o2", "d10/Level3_o1", "d2/Level3_o1", "combined/Level3_o1", "d1/Level3_o2")
    paths = [tmp_path / f"stage3/{place}_ch{n}-long_s3d.fits" for place in places for n in (10, 2)]
    summary = {"observation": {"pointing": None}, "stages": [{"field": 4, "good": 3}]}
    table = gallery(tmp_path, [(files, summary) for files in group_cubes(paths[:-1])])
    columns = [(column["tile"], column["place"]) for column in table["columns"]]
    assert columns == [("o1", "d2"), ("o1", "d10"), ("o1", "combined"), ("o2", "d1"), ("o2", "combined")]
    assert table["bands"] == ["2C", "10C"]
    # The last one is not there.
    assert [cell is None for cell in table["rows"][0]["cells"]] == [False, False, False, True, False]
    assert table["rows"][0]["cells"][0]["stages"][0]["invalid"] == 0.25


# pictures


def test_pictures_have_the_first_row_at_the_bottom_and_nothing_where_there_is_no_value():
    image = np.array([[0.0, np.nan, 2.0], [1.0, 5.0, -1.0]])
    shown = pixels(encode_picture(image, 0, 2))
    assert shown.shape == (2, 3, 4)
    assert (shown[::-1, :, 3] == np.where(np.isfinite(image), 255, 0)).all()
    brightness = shown[::-1, :, :3].sum(axis=-1)
    assert brightness[0, 0] < brightness[1, 0] < brightness[0, 2]
    # Beyond the limits are the last colours.
    assert brightness[1, 1] == brightness[0, 2] and brightness[1, 2] == brightness[0, 0]


def test_what_differs_between_the_pictures_of_two_stages_is_the_data(root):
    paths = [root / stage / "d1/Level3_ch1-short_s3d_nav.fits" for stage in ("stage3", "stage5_despike")]
    summary = summarise_cubes([read_cube(path) for path in paths])
    assert summary["plane"]["number"] == SPIKE[0] + 1
    before, after = (pixels(stage["single"]) for stage in summary["stages"])
    differs = (before != after).any(axis=-1)[::-1]
    assert list(zip(*np.nonzero(differs), strict=True)) == [SPIKE[1:]]


def test_missing_values_do_not_make_others_look_brighter(tmp_path):
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    scene = np.broadcast_to(1.0 + x + y, SHAPE)
    saturated = np.where((x > 3) & (np.arange(SHAPE[0]) % 2 == 0)[:, None, None], np.nan, scene)
    cubes = [read_cube(write_cube(tmp_path / f"{n}.fits", sci)) for n, sci in enumerate((saturated, scene))]
    before, after = (pixels(stage["mean"]) for stage in summarise_cubes(cubes)["stages"])
    np.testing.assert_array_equal(before, after)


def test_the_plane_shown_is_where_the_most_changed():
    valid = np.ones((3, 10, 4, 4), bool)
    valid[0, 7, :2] = False  # recovered
    valid[2, 3, 0, 0] = False  # removed
    assert telling_plane(list(valid)) == 7
    valid[0, 7] = True
    assert telling_plane(list(valid)) == 3
    alone = np.zeros((5, 2, 2), bool)
    alone[2:] = True
    assert telling_plane([alone]) == 3


def test_voxels_are_counted_by_what_was_done_to_them(tmp_path):
    values = np.ones(SHAPE)
    values[0, 0, 0] = np.nan
    groups = np.full(SHAPE, 5, np.int16)
    groups[:6], groups[0, 0, 0] = 2, 0
    flat = np.where(np.arange(SHAPE[2]) % 2 == 0, 1.02, 0.98) * np.ones(SHAPE, np.float32)
    cube = read_cube(write_cube(tmp_path / "a.fits", values, NGROUPS=groups, FLAT=flat, SPIKES=np.zeros((2, 2))))
    cube.dq[1] |= np.uint32(2**18)
    half, plane = 6 * SHAPE[1] * SHAPE[2], SHAPE[1] * SHAPE[2]
    counts = voxel_counts(cube)
    assert counts["good"] == 2 * half - 1 and counts["field"] == 2 * half
    assert counts["groups"] == {"2": half - 1, "5": half}
    assert counts["without_flat"] == plane
    assert counts["flat_rms"] == pytest.approx(0.02, rel=1e-5)
    # An extension of another shape is none of this cube's.
    assert "spikes" not in counts


def test_a_cube_without_a_value_is_summarised(tmp_path):
    cube = read_cube(write_cube(tmp_path / "stage3/d1/Level3_ch1-long_s3d.fits", np.full(SHAPE, np.nan)))
    (stage,) = summarise_cubes([cube])["stages"]
    assert stage["good"] == stage["field"] == 0
    assert (pixels(stage["mean"])[..., 3] == 0).all()
    write_report(tmp_path)
    assert "1C" in words(parse(tmp_path))


def test_summaries_are_plain_and_the_same_each_time(root):
    path = next((root / "report/cubes/d1").glob("*.json"))
    before = path.read_bytes()
    path.unlink()
    write_report(root)
    assert path.read_bytes() == before
    assert json.loads(before)["observation"]["pointing"]["ra"] == 0.0123


# in a run

OBSERVED = {
    "TELESCOP": "JWST", "DETECTOR": "MIRIFUSHORT", "EXP_TYPE": "MIR_MRS", "CHANNEL": "1", "BAND": "SHORT", "NGROUPS": 5,
}  # fmt: skip


def test_a_run_ends_with_a_report_on_itself_also_where_tasks_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CRDS_CONTEXT", "jwst_1322.pmap")
    paths = [tmp_path / f"stage3/d{n}/Level3_ch1-short_s3d.fits" for n in (1, 2)]
    for path in paths:
        write_cube(path, np.ones(SHAPE), OBSERVED)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: 2880 * 3])
    options = {"start_step": "navigate", "skip_steps": ["despike", "plot", "animate"], "basic_navigation": True}
    assert run_pipeline(MIRI, tmp_path, **options).exit_status == 1
    assert "report/index.html" in capsys.readouterr().out
    page = parse(tmp_path)
    assert "navigate failed: " in section(page, "problems") and "finished" in words(page)
    assert "basic_navigationtrue" in section(page, "run").split("all settings")[0]
    assert "1A d1" not in section(page, "problems")
    labels = [button.get("data-label") for button in elements(page, "button") if button.get("data-label")]
    assert labels == ["1A d1"]
    # Mended, it is the same run that goes on, and its report.
    paths[1].write_bytes(whole)
    assert run_pipeline(MIRI, tmp_path, **options).exit_status == 0
    page = parse(tmp_path)
    assert elements(page, "section")[0].get("id") == "observation"
    assert "finished, 4 tasks, 2 as before" in words(page)


def test_a_run_can_do_without_a_report(tmp_path, monkeypatch):
    monkeypatch.setenv("CRDS_CONTEXT", "jwst_1322.pmap")
    write_cube(tmp_path / "stage3/d1/Level3_ch1-short_s3d.fits", np.ones(SHAPE), OBSERVED)
    run_pipeline(MIRI, tmp_path, start_step="navigate", end_step="navigate", basic_navigation=True)
    assert not (tmp_path / "report").exists()
