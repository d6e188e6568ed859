"""How many threads are worth their while, and what the machine is called."""

import platform
from pathlib import Path

import pytest
import torch

from norml_cli.registry.reading import load_registry
from norml_cli.training import provenance, resources
from norml_cli.training.build import parameter_counts


@pytest.fixture(autouse=True)
def all_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resources, "ALL_THREADS", 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("benchmark", "shots", "faster"), [("glyphs-5way", 1, 1), ("omniglot-20way", 1, 1), ("omniglot-20way", 5, 2)]
)
@pytest.mark.parametrize("method", ["norml", "maml-constant-lr"])
def test_the_default_is_what_was_measured_to_be_faster(method: str, benchmark: str, shots: int, faster: int):
    registry = load_registry()
    spec = registry.resolve(method, benchmark, shots).spec
    work = spec.examples_of_an_outer_step * parameter_counts(registry, spec)["learner"]
    assert resources.use_threads(None, work) == torch.get_num_threads() == faster


def test_what_the_user_says_comes_first(monkeypatch: pytest.MonkeyPatch):
    assert resources.use_threads(1, 1e12) == 1
    assert resources.use_threads(2, 0.0) == torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # as torch took it when it was loaded
    assert resources.use_threads(None, 0.0) == 2


def test_a_device_is_named_by_its_threads_and_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "cpu_model", lambda: "Some(R) Processor")
    cpu = torch.device("cpu")
    assert provenance.device_name(cpu) == "cpu (1 thread, Some(R) Processor)"
    torch.set_num_threads(2)
    assert provenance.device_name(cpu) == "cpu (2 threads, Some(R) Processor)"


def test_a_cpu_is_named_with_the_numbers_that_tell_its_kind(tmp_path: Path):
    core = "vendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD  EPYC\n"
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{core}\nprocessor\t: 1\n{core}\n")
    assert provenance.cpu_model(tmp_path / "cpuinfo") == "AMD EPYC, family 25, model 17"


@pytest.mark.parametrize("content", [None, "vendor_id: none\nmodel name :\n"], ids=["no file", "no name"])
def test_a_cpu_without_a_model_is_named_by_its_architecture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
):
    monkeypatch.setattr(platform, "processor", lambda: "")
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert provenance.cpu_model(tmp_path / "cpuinfo") == platform.machine()


def test_other_errors_are_no_want_of_memory():
    assert not resources.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not resources.is_out_of_memory(ValueError("can't allocate memory"))
    assert resources.is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))


def test_processes_that_share_a_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resources, "ALL_THREADS", 4)
    assert resources.use_threads(None, 1e12, processes=2) == 2
    assert resources.use_threads(None, 1e12, processes=8) == 1
    assert resources.use_threads(2, 1e12, processes=8) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert resources.use_threads(None, 0.0, processes=2) == 4
