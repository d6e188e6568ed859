"""The Data panel: prepare data sets, and pretrain backbones."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from norml_cli.app.options import (
    DeterministicOption,
    DeviceOption,
    DevicesOption,
    ForceOption,
    PrecisionOption,
    QuietOption,
    RegistryOption,
    ResultJsonOption,
    ResultsOption,
    SeedsOption,
    ThreadsOption,
)
from norml_cli.app.typer_app import app
from norml_cli.arguments import entries_of, ids_of, nameable, precision_of, seeds_of
from norml_cli.terminal.output import Output
from norml_cli.terminal.usage import Command


@app.command(
    "prepare",
    cls=Command,
    rich_help_panel="Data",
    epilog="norml prepare omniglot\nnorml prepare mini-imagenet --source mini-imagenet.zip",
)
def prepare_command(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="A data set from `norml list`, such as omniglot.", autocompletion=ids_of("datasets")
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="PATH",
            callback=nameable,
            help="Folder or archive of the raw data. Default: download it, where the licence allows.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Build the cache again. Default: keep it if it is up to date.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the cache: recompute every checksum. Default: off.")
    ] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    registry: RegistryOption = None,
) -> None:
    """Prepare a data set: cache its images and test episodes."""
    from norml_cli.commands.data.prepare import prepare, suggest_benchmark

    output, entries = Output(quiet=quiet, as_json=json), entries_of(registry)
    prepare(entries, dataset, source=source, force=force, verify=verify, console=output)
    if not verify:
        suggest_benchmark(entries, dataset, output)


@app.command(
    "pretrain",
    cls=Command,
    rich_help_panel="Data",
    epilog="norml pretrain mini-imagenet --recipe resnet12-narrow\n"
    "norml pretrain mini-imagenet --recipe resnet12-narrow --epochs 1",
)
def pretrain_command(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A data set from `norml list`, such as mini-imagenet.",
            autocompletion=ids_of("datasets"),
        ),
    ],
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", metavar="ID", help="A recipe from `norml list`. Required.", autocompletion=ids_of("recipes")
        ),
    ],
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            metavar="N",
            min=1,
            max=1_000_000,
            help="Passes over the training images. Default: the recipe's.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            "--width", metavar="W", min=1, max=8192, help="Channels of the first block. Default: the recipe's."
        ),
    ] = None,
    precision: PrecisionOption = None,
    seeds: SeedsOption = ["0"],  # noqa: B006 - typer copies it
    device: DeviceOption = "auto",
    devices: DevicesOption = None,
    threads: ThreadsOption = None,
    deterministic: DeterministicOption = False,
    force: ForceOption = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only check the features: recompute every checksum. Default: off.")
    ] = False,
    quiet: QuietOption = False,
    json: ResultJsonOption = False,
    results: ResultsOption = Path("results"),
    registry: RegistryOption = None,
) -> None:
    """Pretrain a backbone and store its features of every image.

    The backbone learns to classify the meta-training classes. You may stop it with Ctrl-C: the same command resumes it.
    With other --epochs or --width you get another backbone. To use it, give `norml run` the settings backbone_epochs=N
    and backbone_width=W.
    """
    from norml_cli.training.ranks.launching import on_devices

    with on_devices(None if verify else devices, device) as ranks:
        entries, chosen = entries_of(registry), seeds_of(seeds)
        from norml_cli.registry.recipes import resolve_recipe  # before torch: fails fast

        of_recipe, of_dataset = entries.recipe(recipe), entries.dataset(dataset)
        resolved = resolve_recipe(of_recipe, of_dataset, epochs=epochs, width=width, precision=precision_of(precision))
        output = Output(quiet=quiet, as_json=json)
        output.print(f"{recipe}, seed {', '.join(map(str, chosen))}: loading torch and the data", highlight=False)
        from norml_cli.commands.data.pretrain import pretrain, verify_features
        from norml_cli.training.launch import Launch

        if verify:
            for seed in chosen:
                verify_features(entries, resolved, seed, output)
            return
        own = ranks.device(device)
        launch = Launch.of(chosen[0], own, results, force=force, threads=threads, deterministic=deterministic)
        pretrain(entries, resolved, replace(launch, ranks=ranks).with_seeds(chosen), output)
