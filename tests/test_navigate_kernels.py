"""Finding, ordering, loading and unloading kernels."""

import os
import shutil

import pytest
import spiceypy as spice

from errors import KernelError
from simulate.kernels import write_kernels
from spice_kernels import (
    find_kernels,
    is_predicted,
    jwst_kernel_kind,
    kernel_directory,
    kernel_fingerprint,
    kernels_loaded,
)

PCK = "KPL/PCK\n\\begindata\nBODY699_RADII = ( {0} {0} {0} )\n\\begintext\n"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    directory = tmp_path_factory.mktemp("kernels")
    write_kernels(directory, "2022-11-11", "2022-11-15", "saturn")
    return directory


def loaded():
    return [spice.kdata(i, "ALL")[0] for i in range(spice.ktotal("ALL"))]


def test_the_directory_is_planetmappers(monkeypatch, tmp_path):
    planetmapper = pytest.importorskip("planetmapper")
    monkeypatch.setenv("PLANETMAPPER_KERNEL_PATH", str(tmp_path))
    assert kernel_directory() == tmp_path
    monkeypatch.delenv("PLANETMAPPER_KERNEL_PATH")
    assert str(kernel_directory()) == os.path.expanduser(planetmapper.get_kernel_path()).rstrip("/")
    assert kernel_directory("~/k") == kernel_directory(os.path.expanduser("~/k"))


def test_the_order_is_planetmappers_but_for_predictions(tmp_path):
    planetmapper = pytest.importorskip("planetmapper")
    names = [
        "b.bsp",
        "a.bsp",
        "old/z.bsp",
        "old/older/c.tpc",
        "x/naif.tls",
        "jwst_rec.bsp",
        "old/jwst_rec.bsp",
        "notes.txt",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    theirs = planetmapper.base.sort_kernel_paths([str(tmp_path / name) for name in names if "txt" not in name])
    assert [str(path) for path in find_kernels(tmp_path)] == theirs
    (tmp_path / "jwst_pred.bsp").touch()
    (tmp_path / "jwst_rec_later").mkdir()
    (tmp_path / "jwst_rec_later" / "jwst_rec_2.bsp").touch()
    order = [path.name for path in find_kernels(tmp_path)]
    assert order[0] == "jwst_pred.bsp"
    assert (
        is_predicted("JWST_pred_230101.bsp") and not is_predicted("jwst_rec.bsp") and not is_predicted("predators.bsp")
    )


def test_later_kernels_take_precedence(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "b.tpc").write_text(PCK.format("1.0"))
    (tmp_path / "a.tpc").write_text(PCK.format("2.0"))
    with kernels_loaded(tmp_path):
        assert spice.bodvrd("SATURN", "RADII", 3)[1][0] == 2.0


def test_reconstructed_outranks_predicted_where_it_reaches(kernels, tmp_path):
    shutil.copytree(kernels, tmp_path / "k")
    (tmp_path / "k" / "jwst.bsp").rename(tmp_path / "k" / "jwst_rec.bsp")
    write_kernels(tmp_path / "longer", "2022-11-11", "2023-01-15", "saturn")
    shutil.copy(tmp_path / "longer" / "jwst.bsp", tmp_path / "k" / "jwst_pred.bsp")
    # By name alone the prediction would come last, in `z`.
    (tmp_path / "k" / "z").mkdir()
    with kernels_loaded(tmp_path / "k"):
        assert jwst_kernel_kind(spice.str2et("2022-11-13T00:00")) == "reconstructed"
        assert jwst_kernel_kind(spice.str2et("2023-01-14T00:00")) == "predicted"
        assert jwst_kernel_kind(spice.str2et("2024-01-14T00:00")) is None


def test_the_pool_is_left_as_it_was(kernels, tmp_path):
    (tmp_path / "mine.tpc").write_text(PCK.format("7.0"))
    shutil.copy(kernels / "leapseconds.tls", tmp_path)
    own = [str(tmp_path / "mine.tpc"), str(kernels / "iau2015.tpc"), str(tmp_path / "leapseconds.tls")]
    assert loaded() == []
    try:
        for name in own:
            spice.furnsh(name)
        radii = spice.bodvrd("SATURN", "RADII", 3)[1].copy()
        with kernels_loaded(kernels) as files:
            assert loaded()[-len(files) :] == [str(file) for file in files]
            inside = loaded()
            with kernels_loaded(kernels):
                assert loaded() == inside
            assert loaded() == inside
        assert loaded() == own
        assert spice.bodvrd("SATURN", "RADII", 3)[1].tolist() == radii.tolist()
        with pytest.raises(ZeroDivisionError), kernels_loaded(kernels):
            _ = 1 / 0
        assert loaded() == own
    finally:
        spice.kclear()


def test_planetmapper_in_the_same_process(kernels):
    planetmapper = pytest.importorskip("planetmapper")
    planetmapper.set_kernel_path(str(kernels))
    planetmapper.base.clear_kernels()
    try:
        first = planetmapper.Body("saturn", "2022-11-13T00:00", observer="JWST")
        with kernels_loaded(kernels):
            pass
        again = planetmapper.Body("saturn", "2022-11-13T00:00", observer="JWST")
        assert (first.subpoint_lon, first.target_ra) == (again.subpoint_lon, again.target_ra)
    finally:
        planetmapper.set_kernel_path(None)
        planetmapper.base.clear_kernels()


def test_missing_kernels_are_one_sentence(tmp_path):
    with pytest.raises(KernelError, match=r"gone does not exist: download .*naif0012.tls.*jwst_rec.bsp"):
        find_kernels(tmp_path / "gone")
    with pytest.raises(KernelError, match="holds no SPICE kernel"):
        find_kernels(tmp_path)
    (tmp_path / "broken.bsp").write_text("not found")
    with pytest.raises(KernelError, match=r"broken.bsp .*download it again"), kernels_loaded(tmp_path):
        pass
    assert loaded() == []


def test_the_fingerprint_changes_with_the_files(kernels, tmp_path):
    shutil.copytree(kernels, tmp_path / "k")
    first = kernel_fingerprint(tmp_path / "k")
    assert first == kernel_fingerprint(tmp_path / "k")
    os.utime(tmp_path / "k" / "jwst.bsp", ns=(0, 1))
    second = kernel_fingerprint(tmp_path / "k")
    (tmp_path / "k" / "jwst.bsp").rename(tmp_path / "k" / "jwst_rec.bsp")
    assert len({first, second, kernel_fingerprint(tmp_path / "k")}) == 3
