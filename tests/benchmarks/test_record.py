"""A benchmark's record: whole, checked, and no run of `norml report`."""

import os
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from norml_cli.files.errors import UserError
from norml_cli.results.speed import Measurement, SpeedRecord, SpeedSection, read_speed
from norml_cli.results.store import Results
from tests.benchmarks.record import ROOT, measured, not_measured, speed_record, write_speed_record


def made_record() -> SpeedRecord:
    section = SpeedSection(name="peers", title="made", measurements=[measured({"engine": "norml"}, [3.0, 1.0, 2.0])])
    arguments = ["--quick", "--results", "of/somebody/results", "--results=of/somebody/else"]
    settings = {"others_busy_cores": 0.25, "settings": {"quick": True}, "arguments": arguments}
    return speed_record([section], device=torch.device("cpu"), **settings)


def test_a_record_is_complete_and_names_no_folder(tmp_path: Path):
    path = write_speed_record(tmp_path, "made", made_record())
    text = path.read_text(encoding="utf-8")
    record = read_speed(path)
    assert path == tmp_path / "speed" / "made.json"
    assert record == made_record().model_copy(update={"created": record.created})
    assert record.schema_version == 1
    assert record.sections[0].measurements[0].repeats == [3.0, 1.0, 2.0]
    assert {"python", "norml", "torch"} <= set(record.versions)
    assert record.machine.threads == torch.get_num_threads()
    assert record.machine.others_busy_cores == 0.25
    assert record.command == "python -m tests.benchmarks.speed --quick --results results --results=else"
    assert "somebody" not in text
    assert str(Path.cwd()) not in text


def test_the_records_at_hand_are_readable():
    paths = list((ROOT / "results" / "speed").glob("*.json"))
    assert paths
    for path in paths:
        read_speed(path)


def test_a_damaged_record_is_told(tmp_path: Path):
    path = write_speed_record(tmp_path, "made", made_record())
    text = path.read_text(encoding="utf-8")
    for damaged, told in (
        (text[:-9], r"made\.json: cannot be read"),
        (text.replace('"unit"', '"one"'), r"unit: is missing"),
    ):
        path.write_text(damaged, encoding="utf-8")
        with pytest.raises(UserError, match=told):
            read_speed(path)


def test_a_median_that_does_not_follow_is_refused():
    good = measured({"engine": "norml"}, [1.0, 2.0]).model_dump()
    with pytest.raises(ValidationError, match="median"):
        Measurement.model_validate(good | {"median": 1.0})
    with pytest.raises(ValidationError, match="note"):
        Measurement.model_validate(good | {"repeats": [], "median": None})
    assert not_measured({"way": "plain"}, "above the limit").median is None


def test_a_record_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_speed_record(tmp_path, "made", made_record())
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_speed_record(tmp_path, "made", made_record())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_speed_records_are_no_runs(tmp_path: Path):
    write_speed_record(tmp_path, "seed-0", made_record())
    assert Results(tmp_path).runs() == []
