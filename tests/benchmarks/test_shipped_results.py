"""Facts about the results that ship with the package: they are those of benchmarks/RESULTS.md."""

import re

import pytest

from benchmarks.shipped_results import RESULTS, SECTIONS, SHIPPED, dump, read_sections


@pytest.fixture(scope="module")
def text():
    return RESULTS.read_text(encoding="utf-8")


def test_the_shipped_results_are_those_of_the_results_page(text):
    assert SHIPPED.read_text(encoding="utf-8") == dump(text), "run python -m benchmarks.shipped_results"


def test_every_cell_of_a_table_is_read(text):
    sections = read_sections(text)
    assert tuple(sections) == tuple(SECTIONS)
    for section in sections.values():
        assert all(len(row) == len(section["columns"]) for row in section["rows"])
    (agent,) = [row for row in sections["plain20"]["rows"] if row[0] == "agent"]
    assert "| " + " | ".join(agent) + " |" in text


def test_commands_are_those_that_made_the_tables(text):
    sections = read_sections(text)
    assert sections["resnet56"]["command"].startswith("python -m benchmarks.cifar_channels resnet56")
    assert sections["mobilenet_v1"]["command"].count("\n") == 1


def test_a_heading_that_is_gone_is_named(text):
    with pytest.raises(ValueError, match=r"0 headings of the results begin with 'Plain-20"):
        read_sections(text.replace("## Plain-20", "## Plain20"))


def test_a_section_with_a_second_table_is_refused(text):
    heading = re.search(r"^## Plain-20.*\n", text, re.MULTILINE)[0]
    with pytest.raises(ValueError, match="has 2 tables, but one is shipped"):
        read_sections(text.replace(heading, f"{heading}\n| a |\n|---|\n| b |\n\n"))
