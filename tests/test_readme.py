"""What the README shows is what the tool prints."""

import csv
import html
import importlib
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from norml_cli.files.companions import INSPECTION
from norml_cli.results.store import Results, scan_inspections

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SPEED_PAGE = (ROOT / "docs" / "explanation" / "speed.md").read_text(encoding="utf-8")


def test_the_report_of_the_reproduction_is_what_the_records_give(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "docs")
    reproduction = importlib.import_module("reproduction")
    monkeypatch.setattr(reproduction, "PICTURES", tmp_path)
    page = reproduction.report()
    assert page == (ROOT / "results" / "REPORT.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\]\(pictures/(.*?)\)", page))
    assert (
        shown == {path.name for path in tmp_path.iterdir()} == {p.name for p in (ROOT / "results/pictures").iterdir()}
    )


def test_the_picture_of_a_terminal_shows_what_its_commands_print(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    pictures = importlib.import_module("pictures")
    svg = (ROOT / "docs" / "pictures" / "terminal.svg").read_text(encoding="utf-8")
    drawn = {html.unescape(line).replace("\N{NO-BREAK SPACE}", " ") for line in re.findall(r"<text [^>]*>([^<]*)", svg)}
    for command in pictures.COMMANDS:
        assert {f"$ {command}", *filter(None, pictures.output_of(command).splitlines())} <= drawn


def test_the_picture_of_the_page_is_made_by_chromium_and_its_absence_told(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "docs")
    pictures = importlib.import_module("pictures")
    chromium = any(map(shutil.which, pictures.BROWSERS))
    with monkeypatch.context() as without:
        without.setattr(pictures, "BROWSERS", ())
        with pytest.raises(SystemExit, match="needs Chromium"):
            pictures.page_picture(tmp_path / "page.png", 400, 300)
    if not chromium:
        pytest.skip("no picture of the page was made: needs Chromium")
    pictures.page_picture(tmp_path / "page.png", 400, 300)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.size == (400, 300)
        assert len(picture.convert("RGB").getcolors(maxcolors=400 * 300)) > 10  # not blank


def speed_record(name: str, measurements: list[tuple[dict, float, dict]], **settings: str | int) -> dict:
    """What the bench keeps, with these labels, seconds and derived numbers."""
    made = [
        {"labels": labels, "unit": "s", "repeats": [seconds] * 3, "median": seconds, "derived": derived}
        for labels, seconds, derived in measurements
    ]
    section = {"name": name, "title": "made", "settings": settings, "measurements": made, "others_busy_cores": 0.5}
    cpu = {"cpu": "AMD EPYC (family 25, model 17)", "cores": 2, "threads": 2, "device": "cpu", "system": "Linux"}
    return {
        "schema_version": 1,
        "created": "2026-11-27T20:00:00+00:00",
        "command": "made",
        "git": {"commit": None, "dirty": None},
        "versions": {"torch": "2.15.0"},
        "machine": cpu,
        "settings": {},
        "sections": [section],
    }


WHERE = "steps on AMD EPYC (family 25, model 17), 2 cores, 2 threads, torch 2.15.0, 2026-11-27"
ONE_THREAD = WHERE.replace("2 threads", "1 thread")
ENGINES = ["norml, compiled", "norml", "torch.func, compiled", "torch.func", "TorchOpt MetaSGD", "higher"]
SPEED = {
    "peers": speed_record(
        "peers",
        [
            ({"shots/queries": "1/1", "engine": engine}, 0.04 * times, {"share of peak": 0.5, "compile s": 60.4})
            for times, engine in enumerate(ENGINES, start=1)
        ],
        learner="784-20, batch norm without scale",
    ),
    "methods": speed_record(
        "methods",
        [
            ({"shots/queries": "5/5", "method": method}, 0.1, {"times maml": times, "times multiplications": 1.96})
            for method, times in {
                "maml-constant-lr": 1.0,
                "norml, cell size 16": 2.449,
                "norml, cell size 16, compiled": 2.158,
            }.items()
        ],
    ),
    "products": speed_record(
        "products",
        [
            ({"shots/queries": "1/15", "method": method, "products": "norml run's"}, 0.1, {"times as fast": times})
            for method, times in {"maml-constant-lr": 1.517, "norml": 1.354}.items()
        ],
        **{"norml run's": "oneDNN", "threads": 1},
    ),
    "convolutions": speed_record(
        "convolutions",
        [
            ({"size": size, "engine": engine}, 0.2 * times, {})
            for size in ("20-way", "5-way")
            for engine, times in {
                "norml, compiled": 1.0,
                "norml": 1.5,
                "torch.func, compiled": 1.75,
                "torch.func": 2.0,
                "autograd, episode by episode": 2.25,
            }.items()
            if (size, engine) != ("20-way", "torch.func, compiled")
        ],
    ),
}
TABLES = {
    "speed-peers": f"""\
| shots / queries | {" | ".join(ENGINES)} | norml, compiled: share of peak |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 1 / 1 | 40 ms | 2.00 | 3.00 | 4.00 | 5.00 | 6.00 | 50% |

Medians of 3 {WHERE}; other processes kept 0.5 cores busy. Learner: 784-20, batch norm without scale. Time to compile, \
once: norml, compiled: 60 to 60 s; torch.func, compiled: 60 to 60 s.""",
    "speed-methods": f"""\
| shots / queries | cell of 16: plain | cell of 16: compiled | cell of 16: multiplications |
| --- | ---: | ---: | ---: |
| 5 / 5 | 2.45 | 2.16 | 1.96 |

Medians of 3 {WHERE}; other processes kept 0.5 cores busy.""",
    "speed-products": f"""\
| shots / queries | MAML | NORML |
| --- | ---: | ---: |
| 1 / 15 | 1.52 | 1.35 |

Medians of 3 {ONE_THREAD}; other processes kept 0.5 cores busy. `norml run` multiplied by: oneDNN.""",
    "speed-convolutions": f"""\
| problem, 1 shot | norml, compiled | norml | torch.func, compiled | torch.func | autograd, episode by episode |
| --- | ---: | ---: | ---: | ---: | ---: |
| 20-way | 200 ms | 1.50 | - | 2.00 | 2.25 |
| 5-way | 200 ms | 1.50 | 1.75 | 2.00 | 2.25 |

Medians of 3 {WHERE}; other processes kept 0.5 cores busy.""",
}


@pytest.mark.parametrize(("block", "text"), TABLES.items())
def test_a_speed_table_holds_what_the_bench_kept(block, text, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "docs")
    tables = importlib.import_module("speed_tables")
    results = Results(tmp_path)
    monkeypatch.setattr(tables, "RESULTS", results)
    for name, record in SPEED.items():
        path = results.speed_path(f"cpu-{name}")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record), encoding="utf-8")
    assert tables.BLOCKS[block]() == text
    assert f"<!-- made: {block} -->\n" in SPEED_PAGE


INSPECTED = {"MAML (constant lr)": "maml-constant-lr", "MAML (layer-wise lr)": "maml-layerwise-lr", "NORML": "norml"}


@pytest.mark.parametrize(("title", "method"), INSPECTED.items())
def test_the_inspection_page_shows_what_the_records_weights_show(title, method):
    cases = [
        *("all layers adapted", "head alone adapted", "body alone adapted"),
        *("layer 3 not adapted", "layer 4 not adapted", "nothing adapted"),
    ]
    record = ROOT / "results" / "omniglot-20way" / "1-shot" / method / "seed-0.json"
    with (record.parent / "seed-0-inspection" / "freezing.csv").open(encoding="utf-8") as file:
        found = {row["case"]: row for row in csv.DictReader(file)}
    cells = [f"{100 * float(found[c]['accuracy']):.2f} ± {100 * float(found[c]['half_width']):.2f}" for c in cases]
    page = (ROOT / "docs" / "explanation" / "inspection.md").read_text(encoding="utf-8")
    assert f"| {title} | {' | '.join(cells)} |" in page
    best = max(point["validation_accuracy"] for point in json.loads(record.read_text(encoding="utf-8"))["curve"])
    assert float(found["all layers adapted"]["accuracy"]) == pytest.approx(best, abs=1e-3)


def test_inspections_show_the_weights_of_the_records_beside_them():
    """The pages and the report take numbers from them."""
    paths = sorted((ROOT / "results").rglob("inspection.json"))
    runs = [path.parent.with_name(f"{path.parent.name.removesuffix(INSPECTION)}.json") for path in paths]
    scan = scan_inspections(runs)
    assert (len(scan.records), scan.faults) == (len(runs), [])
    assert runs


def test_ci_calls_the_test_command_of_the_readme():
    command = "pip install nox uv && .venv/bin/nox"
    assert command in README
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "nox uv" in ci
    assert '/bin/nox"' in ci
