"""Facts about the verb report: one run, several runs, pictures."""

import json

import pytest

from tests.amc_tf.test_report import write_run


@pytest.fixture
def folders(tmp_path):
    """Two finished runs."""
    return [write_run(tmp_path / name) for name in ("one", "two")]


def test_two_runs_get_their_reports_and_a_page_that_compares_them(amc, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = amc("report", *folders)
    assert (outcome.code, outcome.err) == (0, "")
    reports = [str(folder / "report.html") for folder in folders]
    assert outcome.out.splitlines() == [*reports, "Comparison: comparison.html"]
    assert "2 runs of demo" in (tmp_path / "comparison.html").read_text()
    assert all((folder / "report.html").exists() for folder in folders)


def test_an_older_comparison_is_only_replaced_when_told(amc, folders, tmp_path):
    words = ["report", *folders, "--out", tmp_path / "page.html"]
    assert amc(*words).code == 0
    (folders[0] / "report.html").unlink()
    refused = amc(*words)
    assert refused.code == 1
    assert "page.html exists: give --overwrite" in refused.err
    assert not (folders[0] / "report.html").exists()
    assert amc(*words, "--overwrite").code == 0


def test_json_names_all_that_was_written(amc, folders, tmp_path):
    words = ["report", *folders, "--out", tmp_path / "page.html", "--json"]
    assert json.loads(amc(*words).out) == {
        "comparison": str(tmp_path / "page.html"),
        "runs": [{"report": str(folder / "report.html"), "measured": []} for folder in folders],
        "figures": [],
    }


def test_figures_of_a_run_are_pictures_in_a_folder(amc, folders, tmp_path):
    (folders[0] / "episodes.jsonl").write_text("")
    words = ["report", folders[0], "--figures", tmp_path / "slides"]
    outcome = amc(*words)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[1] == f"Figures: 4 files in {tmp_path / 'slides'}"
    names = sorted(path.name for path in (tmp_path / "slides").iterdir())
    assert names == ["channels.png", "channels.svg", "latency.png", "latency.svg"]
    refused = amc(*words)
    assert refused.code == 1
    assert "slides is not empty: give --overwrite" in refused.err
    assert amc(*words, "--overwrite").code == 0


@pytest.mark.slow
def test_figures_of_a_comparison_lie_beside_those_of_its_runs(amc, folders, tmp_path):
    words = ["report", *folders, "--out", tmp_path / "page.html", "--figures", tmp_path / "slides", "--json"]
    figures = json.loads(amc(*words).out)["figures"]
    assert {f"{tmp_path}/slides/{name}.svg" for name in ("tradeoff", "channels", "two/reward")} < set(figures)


def test_the_page_of_a_comparison_needs_two_runs(amc, folders, capsys):
    with pytest.raises(SystemExit, match="2"):
        amc("report", folders[0], "--out", "page.html")
    assert "--out names the page that compares runs: give two runs or more" in capsys.readouterr().err
