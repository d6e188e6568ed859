"""The page: all that the records hold, nothing from elsewhere, the same bytes for the same records."""

import base64
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser

import pytest
from rich.console import Console

from norml_cli.commands.results.report import report_html
from norml_cli.files.companions import INSPECTED, Companions
from norml_cli.files.errors import UserError
from norml_cli.reporting.drawings import Bar, draw_accuracies
from norml_cli.reporting.html import places_by_column
from norml_cli.reporting.sheets import Grid
from norml_cli.results.gathered import Gathered
from norml_cli.results.records import RunRecord
from norml_cli.results.store import Results, stored_digest, write_record
from tests.helpers.made_records import made_content, made_record, made_registry

VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Elements in order, and the text outside of <style>; raises for an element that is not closed where it should."""

    def __init__(self):
        super().__init__()
        self.elements, self.texts, self._open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def registry(tmp_path):
    return made_registry(tmp_path / "entries")


@pytest.fixture
def results(registry, tmp_path):
    folder = tmp_path / "results"
    for record in (
        made_record(registry, "maml-constant-lr", [5, 6, 4, 5]),
        made_record(registry, "norml", [7, 7, 5, 6], outer_steps=500, inner_lr=0.2),
    ):
        write_record(Results(folder).run_path(record.spec, record.seed), record)
    return folder


def made(registry, results, tmp_path, table_id=None):
    out = tmp_path / "deep" / "page.html"
    report_html(registry, table_id=table_id, out=out, results=Gathered([results]), console=Console(quiet=True))
    return out.read_text(encoding="utf-8")


def inspection(record, digest="", content=None):
    """The folder of an inspection of the record with this digest."""
    folder = Companions(record).inspection
    folder.mkdir()
    if digest or content is not None:
        (folder / INSPECTED).write_text(json.dumps({"about": {"run_digest": digest}} if content is None else content))
    return folder


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader._open
    return reader


def pictures(reader):
    head = "data:image/svg+xml;base64,"
    return [base64.b64decode(image["src"].removeprefix(head)).decode() for image in reader.all("img")]


def tree(svg):
    return ET.fromstring(svg)  # noqa: S314 - our own


def test_the_page_holds_the_figures_of_the_table(registry, results, tmp_path):
    text = " ".join(" ".join(read(made(registry, results, tmp_path)).texts).split())
    for figure in ("62.50 ± 15.23 (a)", "50.00 ± 12.99", "+12.50 ± 7.96*", "50.5 ± 1.25", "Nobody 2020, Table 9"):
        assert figure in text
    assert "missing: norml run norml-zero-cell --benchmark tiny --shots 1" in text


def test_it_needs_nothing_from_elsewhere_and_runs_nothing(registry, results, tmp_path):
    page = made(registry, results, tmp_path)
    reader = read(page)
    assert not reader.all("script")
    assert not reader.all("link")
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in reader.all("img"))
    assert all(link["href"].startswith("#") for link in reader.all("a"))
    assert not re.search(r"url\(|@import", page)
    [policy] = [meta["content"] for meta in reader.all("meta") if "http-equiv" in meta]
    assert policy.startswith("default-src 'none'")


def test_every_link_leads_to_one_place(registry, results, tmp_path):
    reader = read(made(registry, results, tmp_path))
    ids = Counter(attributes["id"] for _, attributes in reader.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    targets = [link["href"][1:] for link in reader.all("a")]
    assert set(targets) <= set(ids)
    assert "tiny-table-tiny-1-shot-norml" in targets


def test_every_cell_says_where_it_comes_from(registry, results, tmp_path):
    page = made(registry, results, tmp_path)
    text = " ".join(" ".join(read(page).texts).split())
    record = made_record(registry, "norml", [7, 7, 5, 6], outer_steps=500, inner_lr=0.2)
    for fact in (record.command, record.spec_hash, record.episodes.test_hash, record.dataset.content_hash):
        assert fact in text
    assert '"inner_lr": 0.2' in text


def test_pictures_say_what_they_show_and_follow_the_ground(registry, results, tmp_path):
    reader = read(made(registry, results, tmp_path))
    assert all(image["alt"] for image in reader.all("img"))
    drawn = pictures(reader)
    assert drawn
    for svg in drawn:
        root = tree(svg)
        assert root.tag.endswith("svg")
        assert "prefers-color-scheme:dark" in svg
        assert "var(--c0)" in svg
        assert "#000001" not in svg
    assert "NORML" in "".join(tree(drawn[0]).itertext())


def test_learning_curves_are_drawn_and_told(registry, tmp_path):
    content = made_content(registry, "norml", [7, 7, 5, 6])
    content["curve"].insert(0, content["curve"][0] | {"step": 500, "validation_accuracy": 0.25})
    record = RunRecord.model_validate(content)
    write_record(Results(tmp_path / "results").run_path(record.spec, record.seed), record)
    [_, curves] = (reader := read(made(registry, tmp_path / "results", tmp_path))).all("img")
    assert curves["alt"] == "tiny, 1-shot: learning curves; meta-validation accuracy at the end: NORML 50.0%"
    drawn = "".join(tree(pictures(reader)[1]).itertext())
    assert "outer steps" in drawn
    assert "2,000" in drawn


def test_a_method_far_below_is_named_and_not_drawn(registry, tmp_path):
    for method, correct in (("maml-constant-lr", [9, 9, 8, 9]), ("norml", [1, 2, 1, 1])):
        record = made_record(registry, method, correct)
        write_record(Results(tmp_path / "results").run_path(record.spec, record.seed), record)
    svg = pictures(read(made(registry, tmp_path / "results", tmp_path)))[0]
    assert "(off the scale: NORML 12.5" in "".join(tree(svg).itertext())


def test_what_was_looked_at_inside_is_shown_as_an_image(registry, results, tmp_path):
    record = results / "tiny" / "1-shot" / "norml" / "seed-0.json"
    folder = inspection(record, stored_digest(record))
    hostile = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    (folder / "gates.svg").write_text(hostile)
    page = made(registry, results, tmp_path)
    assert hostile in pictures(read(page))
    assert "<script>" not in page


@pytest.mark.parametrize("content", [{"about": {"run_digest": "of the run before"}}, {"about": {}}, [], None])
def test_what_shows_replaced_weights_is_left_out_and_told(registry, results, tmp_path, capsys, content):
    """As `norml run --force` leaves it."""
    folder = inspection(results / "tiny" / "1-shot" / "norml" / "seed-0.json", content=content)
    (folder / "gates.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    assert (folder / "gates.svg").read_text() not in pictures(read(made(registry, results, tmp_path)))
    told = f"left out: {folder}: shows other weights than those of seed-0.json next to it; "
    assert capsys.readouterr().err == ("" if content is None else f"{told}delete it, or inspect that again\n")


def test_titles_are_text(tmp_path):
    registry = made_registry(tmp_path / "entries", title="<b onclick=alert(1)>&amp;")
    record = made_record(registry, "norml", [7, 7, 5, 6])
    write_record(Results(tmp_path / "results").run_path(record.spec, record.seed), record)
    reader = read(made(registry, tmp_path / "results", tmp_path))
    assert "<b onclick=alert(1)>&amp;" in "".join(reader.texts)
    assert not reader.all("b")


def test_the_same_records_make_the_same_page(registry, results, tmp_path):
    assert made(registry, results, tmp_path) == made(registry, results, tmp_path, "tiny-table")


def test_nothing_to_show_is_refused_and_nothing_written(registry, tmp_path):
    (tmp_path / "results").mkdir()
    with pytest.raises(UserError, match=r"no table has a finished run; `norml run METHOD` makes one"):
        made(registry, tmp_path / "results", tmp_path)
    assert not (tmp_path / "deep").exists()


def test_seeds_are_drawn_as_their_mean_in_a_band(registry, tmp_path):
    for seed, accuracy in ((0, 0.25), (1, 0.35)):
        content = made_content(registry, "norml", [7, 7, 5, 6])
        content["seed"] = seed
        content["curve"].insert(0, content["curve"][0] | {"step": 500, "validation_accuracy": accuracy})
        record = RunRecord.model_validate(content)
        write_record(Results(tmp_path / "results").run_path(record.spec, record.seed), record)
    svg = pictures(read(made(registry, tmp_path / "results", tmp_path)))[1]
    assert "FillBetween" in svg


def test_the_list_of_runs_is_sorted_by_whichever_column_is_chosen(registry, results, tmp_path):
    page = made(registry, results, tmp_path)
    reader = read(page)
    headers = len([field for field in reader.all("input") if field["name"] == "sort-runs"])
    assert headers == 8
    styles = [row["style"] for row in reader.all("tr") if "style" in row]
    places = [[int(place) for place in re.findall(r": (\d+);", style)] for style in styles]
    assert [len(row) for row in places] == [headers, headers]
    assert sorted(row[5] for row in places) == [0, 1]
    for number in range(headers):
        assert f".sort-{number}:checked) tbody tr {{ order: var(--place-{number})" in page


@pytest.mark.parametrize(
    ("column", "places"),
    [
        (["b", "a", "c"], [1, 0, 2]),
        (["9.50 ± 0.10", "10.00 ± 0.20", "1,000"], [2, 1, 0]),
        (["2026-01-02", "2026-01-01"], [1, 0]),
        (["a", "a"], [0, 1]),
        (["600", "-"], [1, 0]),
    ],
)
def test_texts_are_sorted_from_a_and_numbers_from_the_largest(column, places):
    grid = Grid(["it"], [[text] for text in column])
    assert [row[0] for row in places_by_column(grid)] == places


def test_long_names_leave_room_for_the_intervals():
    """Matplotlib warns if they do not, and a warning fails a test."""
    name = "NORML (zero hidden & zero cell), one by one, resnet12-42px features"
    svg = draw_accuracies([Bar(name, (52.0, 0.2), None), Bar("MAML", (51.2, 0.2), (48.7, 1.8))], "1-shot")
    for line in ("NORML (zero hidden &amp; zero cell), one", "by one, resnet12-42px features", "MAML"):
        assert line in svg
