"""The table of timings is made, and says what is met; the figures themselves hang on the machine."""

import re

import pytest

from benchmarks.run import main, measure
from benchmarks.workspace import Benchmark, Workspace


def test_table_has_a_row_for_each_step(capsys):
    status = main(["navigate", "flat_field", "despike", "--planes", "12", "--rounds", "1"])
    rows = [line for line in capsys.readouterr().out.splitlines() if re.search(r"(ok|NOT MET)$", line)]
    assert [row.split()[0] for row in rows] == ["navigate", "flat_field", "despike"]
    assert status == any(row.endswith("NOT MET") for row in rows)


def test_unknown_rows_are_refused(capsys):
    assert main(["navigat"]) == 2
    assert "choose from navigate" in capsys.readouterr().err


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return Workspace.make(tmp_path_factory.mktemp("space"), 5)


@pytest.mark.parametrize(("limit", "megabytes", "met"), [(1.0, 0, True), (-1.0, 0, False), (1.0, 50, False)])
def test_a_limit_missed_in_time_or_memory_is_told(space, limit, megabytes, met):
    benchmark = Benchmark(
        name="hold", run=lambda: len(bytes(megabytes * 10**6)), inputs=[space.cube], limit=lambda *_: limit, rule=""
    )
    row, found = measure(benchmark, 1)
    assert found is met
    assert row.endswith("ok" if met else "NOT MET")
