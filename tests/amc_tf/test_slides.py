"""Facts about amc_tf/slides.py."""

import dataclasses
import struct
from xml.etree import ElementTree

import pytest

from amc_tf.errors import RunFolderError
from amc_tf.figures import make_figures
from amc_tf.run_record import read_run
from amc_tf.slides import draw_slide, palette, write_slides
from tests.amc_tf.test_report import make_summary, with_operators, write_run
from tests.test_architecture import run_python


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return make_figures(read_run(write_run(folder)))


def size_of(png):
    return struct.unpack(">II", png[16:24])


def test_each_chart_becomes_two_files_of_the_size_of_a_slide(figures, tmp_path):
    paths = write_slides([figures["latency"], figures["channels"]], tmp_path / "new" / "slides")
    assert [path.name for path in paths] == ["latency.png", "latency.svg", "channels.png", "channels.svg"]
    assert size_of(paths[0].read_bytes()) == (1920, 1080)
    assert ElementTree.parse(paths[1]).getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("name", ["channels", pytest.param("accuracy", marks=pytest.mark.slow)])
def test_equal_figures_give_equal_files(figures, name):
    assert draw_slide(figures[name], "svg") == draw_slide(figures[name], "svg")


def test_many_layers_stand_in_panels_and_make_the_slide_no_higher(figures):
    chart = figures["channels"].chart
    many = dataclasses.replace(chart, rows=chart.rows[:12] * 4)
    slide = draw_slide(dataclasses.replace(figures["channels"], chart=many), "png")
    assert size_of(slide) == (1920, 1080)


def test_operators_are_drawn_too(tmp_path):
    figures = make_figures(read_run(write_run(tmp_path, with_operators(30))))
    assert size_of(draw_slide(figures["operators"], "png")) == (1920, 1080)


def test_a_dollar_in_the_name_of_a_layer_is_no_formula(tmp_path):
    summary = make_summary()
    summary["channels"][0]["layer"] = r"$\broken{"
    figures = make_figures(read_run(write_run(tmp_path, summary)))
    assert draw_slide(figures["channels"], "png").startswith(b"\x89PNG")


def test_colours_are_those_of_the_page():
    assert palette()["found"] == "#1b62d6"
    assert palette()["page"] == "#f6f7f9"


def test_a_folder_that_cannot_be_made_is_named(figures, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file cannot be written"):
        write_slides([figures["latency"]], tmp_path / "file")


def test_only_drawing_loads_matplotlib():
    code = "import sys, amc_tf.slides, amc_tf.report, amc_tf.cli; print('matplotlib' in sys.modules)"
    assert run_python("-c", code).stdout == "False\n"
