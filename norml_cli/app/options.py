"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from norml_cli.arguments import ids_of, keys_of, nameable, nameable_all, one_of

METHOD_IDS, TABLE_IDS = ids_of("methods"), ids_of("tables")  # completers


RegistryOption = Annotated[
    Path | None,
    typer.Option(
        "--registry",
        metavar="PATH",
        callback=nameable,
        help="Folder of your own entries, or one entry's .yaml file. Default: NORML_REGISTRY, if set.",
    ),
]
ResultsOption = Annotated[
    Path,
    typer.Option("--results", metavar="DIR", callback=nameable, help="Folder of records. Default: results."),
]
BenchmarkOption = Annotated[
    str | None,
    typer.Option(
        "--benchmark",
        metavar="ID",
        help="A benchmark from `norml list`. Default: the method's.",
        autocompletion=ids_of("benchmarks"),
    ),
]
ShotsOption = Annotated[
    int | None,
    typer.Option("--shots", metavar="K", help="Labelled examples of each class. Default: the benchmark's first value."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting from `norml show METHOD`; repeatable. A list: hidden_sizes=[64,64]. Default: none.",
        autocompletion=keys_of,
    ),
]
TestSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change the test: queries_per_class, rotations, n_way, inner_steps_test, query_statistics, head_init, "
        "test_episodes, ...; repeatable. Default: as in the run.",
        autocompletion=keys_of,
    ),
]
AdaptationSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change inner_steps_test, query_statistics or head_init; repeatable. Default: as in the run's test.",
        autocompletion=one_of("inner_steps_test=", "query_statistics=", "head_init="),
    ),
]
SeedsOption = Annotated[
    list[str],
    typer.Option(
        "--seeds",
        "--seed",
        metavar="N",
        help="Random seed for initial weights and training episodes. Several: 0,1,2 or 0..2. Default: 0.",
    ),
]
OuterStepsOption = Annotated[
    int | None,
    typer.Option(
        "--outer-steps", metavar="N", min=0, help="Outer steps of meta-training. Default: as in `norml show METHOD`."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Device: auto, cpu, cuda or cuda:N. Default: auto (the first GPU, or the CPU).",
        autocompletion=one_of("auto", "cpu", "cuda"),
    ),
]
DevicesOption = Annotated[
    int | None,
    typer.Option(
        "--devices",
        metavar="N",
        min=1,
        max=1024,
        help="Share each step among N GPUs, or N CPU processes if there is no GPU. Default: 1.",
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Discard existing results and checkpoints, and run again. Default: keep them.")
]
CompileOption = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Compile the outer step first (a minute or more). Default: in long runs only."
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, max=1024, help="CPU threads. Default: 1, or all if the model is large enough."
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="NAME",
        help="Arithmetic: auto, float32 or bfloat16 (auto: bfloat16 where clearly faster). Default: the recipe's.",
        autocompletion=one_of("auto", "float32", "bfloat16"),
    ),
]
DeterministicOption = Annotated[
    bool,
    typer.Option("--deterministic", help="Make runs on a GPU bit-reproducible (slower). Default: off."),
]
FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Output format: rich, markdown, latex, csv or json. Default: rich.",
        autocompletion=one_of("rich", "markdown", "latex", "csv", "json"),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts. Default: text for people.")]
FormatJsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors only (with --json: also the result). Default: off.")
]
RecordArgument = Annotated[
    Path, typer.Argument(metavar="RECORD", help="Record that `norml run` wrote: a seed-N.json file.")
]
RecordsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="RECORD...", callback=nameable_all, help="Records that `norml run` wrote: seed-N.json files."
    ),
]
ResultJsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print the result as JSON, and progress as JSON lines on stderr. Default: off."),
]
GridOption = Annotated[
    list[str] | None,
    typer.Option(
        "--grid",
        metavar="KEY=V1,V2",
        help="Values to try for one setting; repeat the option to try all combinations. Default: none.",
        autocompletion=keys_of,
    ),
]
OnOption = Annotated[
    str,
    typer.Option(
        "--on",
        metavar="WHERE",
        help="Where runs are computed: here, ray (needs norml[ray]) or slurm. Default: here (this machine).",
        autocompletion=one_of("here", "ray", "slurm"),
    ),
]
AtOnceOption = Annotated[
    str,
    typer.Option(
        "--at-once",
        metavar="N",
        help="Number of runs at the same time. Default: auto (as many as the machine or cluster allows).",
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option(
        "--gpus",
        metavar="F",
        min=0,
        help="With --on ray or slurm: GPUs for each run. Default: 0.25 if the Ray cluster has GPUs.",
    ),
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="With --on ray: address of the cluster's head node. Default: RAY_ADDRESS, or Ray on this machine.",
    ),
]
FetchOption = Annotated[
    bool,
    typer.Option(
        "--fetch",
        help="With --on ray: copy checkpoints and results here through Ray. Default: all nodes share the folder.",
    ),
]
SbatchOption = Annotated[
    str,
    typer.Option(
        "--sbatch",
        metavar="OPTIONS",
        help="With --on slurm: options for sbatch, such as 'partition=gpu time=4:00:00'. Default: none.",
    ),
]
MinutesOption = Annotated[
    float | None,
    typer.Option(
        "--minutes", metavar="M", min=0, help="Stop all runs after M minutes, with exit code 75. Default: never."
    ),
]
RetriesOption = Annotated[
    int,
    typer.Option("--retries", metavar="N", min=0, max=100, help="How often to restart a failed run. Default: 1."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only print the missing runs and how long they will take. Default: off.")
]
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--source",
        metavar="PATH",
        callback=nameable,
        help="Folder or archive of the raw data. Default: download it, where the licence allows.",
    ),
]
TensorboardOption = Annotated[
    Path | None,
    typer.Option("--tensorboard", metavar="DIR", help="Also write event files for TensorBoard to DIR. Default: none."),
]
NameOption = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Store the run as METHOD+NAME, beside the method's other runs. Default: as METHOD.",
    ),
]
