"""Pydantic models of registry entries: datasets, benchmarks, methods, pretraining recipes and tables.

Torch-free, so that `list`, `report` and the reading part of `validate` start fast. In YAML a value that decides a
number is `{value: ..., source: "..."}`. The source names a section or equation of the paper, a place in another paper,
or `chosen: why`. The plain models (`Protocol`, `Recipe`, the rules of `norml_cli.registry.rules`) describe the values.
The `*Entry` models are generated from them and add the sources.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Union

from pydantic import Discriminator, Field, Tag, create_model, field_validator, model_validator

from norml_cli.registry.protocol import Count, Id, Protocol, Recipe, Sha256, Shots
from norml_cli.registry.rules.base import RuleSettings, settings_by_algorithm
from norml_cli.registry.sourced import Model, Sourced, Text, with_sources

RULES = settings_by_algorithm()

ProtocolEntry = with_sources(Protocol, "ProtocolEntry", partial=True)
RecipeValuesEntry = with_sources(Recipe, "RecipeValuesEntry", partial=False)


class Entry(Model):
    """The keys of every registry file."""

    id: Id = Field(description="the file's name without .yaml")
    title: Text = Field(description="name shown in lists and tables")
    citation: Text = Field(description="where it was published, or 'this project'")


_LIKE = "id of another {}: keys that are left out here are taken from it, with their sources"
EVERYWHERE = "everywhere"  # in place of a benchmark's id


class Method(Entry):
    """A meta-learning method: an algorithm and its switches."""

    like: Id | None = Field(default=None, description=_LIKE.format("method"))
    default_benchmark: Id = Field(description="the benchmark of `norml run` without --benchmark")
    protocol: dict[Id, ProtocolEntry] = Field(  # type: ignore[valid-type]
        default={},
        description=f"values that replace a benchmark's, by benchmark id; '{EVERYWHERE}' is every benchmark",
    )
    protocol_by_shots: dict[Id, dict[Shots, ProtocolEntry]] = Field(  # type: ignore[valid-type]
        default={}, description="values that replace a benchmark's, by benchmark id and number of shots"
    )
    algorithm: str = Field(description="the algorithm whose settings `rule` holds")
    rule: Any = Field(description="all settings of the algorithm")
    rule_by_benchmark: Any = Field(default={}, description="settings that replace those of `rule`, by benchmark id")
    rule_by_shots: Any = Field(
        default={}, description="settings that replace those of `rule`, by benchmark id and number of shots"
    )

    def protocol_layers(self, benchmark: str, shots: int) -> dict[str, Any]:
        """The method's own values on a benchmark, each layer by its place in the file; later layers win."""
        layers = {f"protocol.{id_}": self.protocol.get(id_) for id_ in (EVERYWHERE, benchmark)}
        layers[f"protocol_by_shots.{benchmark}.{shots}"] = self.protocol_by_shots.get(benchmark, {}).get(shots)
        return {place: layer for place, layer in layers.items() if layer is not None}


def _method_of(algorithm: str, rule: type[RuleSettings]) -> type[Method]:
    """The model of a method's entry with the settings of `rule`."""
    name = rule.__name__
    settings: Any = with_sources(rule, f"{name}Entry", partial=False)
    some: Any = with_sources(rule, f"{name}PartEntry", partial=True)
    fields: dict[str, Any] = {
        "algorithm": (Literal[algorithm], ...),
        "rule": (settings, Method.model_fields["rule"]),
        "rule_by_benchmark": (dict[Id, some], Method.model_fields["rule_by_benchmark"]),
        "rule_by_shots": (dict[Id, dict[Shots, some]], Method.model_fields["rule_by_shots"]),
    }
    return create_model(f"{name.removesuffix('Settings')}Method", __base__=Method, __module__=__name__, **fields)


METHODS = {algorithm: _method_of(algorithm, rule) for algorithm, rule in RULES.items()}
AnyMethod: Any = Annotated[Union[*METHODS.values()], Field(discriminator="algorithm")]


class RecipeEntry(Entry):
    """A way to pretrain a backbone."""

    recipe: RecipeValuesEntry = Field(description="every value of recipe above")  # type: ignore[valid-type]

    @property
    def values(self) -> Recipe:
        """The recipe without its sources. Values that it does not declare have their defaults."""
        declared = {key: getattr(self.recipe, key) for key in Recipe.model_fields}
        return Recipe(**{key: sourced.value for key, sourced in declared.items() if sourced is not None})


class BenchmarkEntry(Entry):
    """A few-shot problem: data, episodes, learner, schedule and evaluation."""

    like: Id | None = Field(default=None, description=_LIKE.format("benchmark"))
    dataset: Id = Field(description="the data set's id")
    shots: list[Shots] = Field(min_length=1, description="allowed values of K; the first is the default")
    protocol: ProtocolEntry = Field(  # type: ignore[valid-type]
        description="values of protocol above; this and protocol_by_shots must give every value without a default"
    )
    protocol_by_shots: dict[Shots, ProtocolEntry] = Field(  # type: ignore[valid-type]
        default={}, description="values that depend on the number of shots"
    )


_SOURCE = "where the split comes from: a paper, or 'chosen: why'"


class SeededSplit(Model):
    """Sort classes by the SHA-256 of 'seed/class', then cut: the same on every file system and library version."""

    kind: Literal["seeded"] = Field(description="seeded")
    seed: int = Field(ge=0, description="seed of the shuffle")
    meta_train: Count = Field(description="number of classes")
    meta_val: Count = Field(description="number of classes")
    meta_test: Count = Field(description="number of classes")
    source: Text = Field(description=_SOURCE)


class FileSplit(Model):
    """Classes listed in text files, one `Alphabet/character[/rotNNN]` a line; paths relative to the entry's file."""

    kind: Literal["files"] = Field(description="files")
    meta_train: Text = Field(description="the text file's path")
    meta_val: Text = Field(description="the text file's path")
    meta_test: Text = Field(description="the text file's path")
    source: Text = Field(description=_SOURCE)


class SourceSplit(Model):
    """The raw source assigns classes to splits; the entry declares how many classes each split must have."""

    kind: Literal["from-source"] = Field(description="from-source")
    meta_train: Count = Field(description="number of classes")
    meta_val: Count = Field(description="number of classes")
    meta_test: Count = Field(description="number of classes")
    source: Text = Field(description=_SOURCE)


Splits = SeededSplit | FileSplit | SourceSplit


def _number_or_range(value: Any) -> str:
    return "range" if isinstance(value, dict | Unequal) else "number"


class Unequal(Model):
    """Classes of unequal size."""

    min: Count = Field(description="least images of a class")
    max: Count = Field(description="most images of a class")
    smaller: Literal["refuse", "leave-out"] = Field(
        default="refuse", description="what to do with a class that has fewer than min images"
    )


class DatasetEntry(Entry):
    """Images by class: their source, their checks and their preparation."""

    kind: Literal["omniglot", "glyphs", "mini-imagenet", "image-folder"] = Field(
        description="which code reads or generates the images"
    )
    home: Text = Field(description="public web address, or 'embedded'")
    licence: Text = Field(description="licence of the images")
    checked: Text | None = Field(default=None, description="how reading was tested, if not with the real images")
    classes: Count = Field(description="number of classes in all splits together")
    examples_per_class: Annotated[
        Annotated[Count, Tag("number")] | Annotated[Unequal, Tag("range")], Discriminator(_number_or_range)
    ] = Field(description="images of every class; {min, max, smaller: refuse or leave-out} if they differ")
    image_size_px: Sourced[Annotated[int, Field(ge=4, le=1024)]] = Field(description="side of the square images")
    resize: Sourced[Literal["lanczos", "bicubic", "bilinear", "box", "nearest", "none"]] = Field(
        description="resizing filter; all but nearest produce grey levels"
    )
    crop: Sourced[Literal["none", "centre"]] | None = Field(
        default=None,
        description="part that is resized: 'centre' is the centred square, 'none' stretches the whole image (default)",
    )
    channels: Sourced[Literal["grey", "rgb"]] | None = Field(
        default=None, description="for an image-folder: its images are converted to this"
    )
    background: Sourced[Literal["white", "black"]] | None = Field(
        default=None, description="colour behind transparent images; white by default"
    )
    invert: Sourced[bool] = Field(description="whether ink becomes 1 and paper 0")
    rotations: Sourced[Literal["per-episode", "as-classes", "none"]] = Field(
        description="'per-episode': a benchmark may rotate each class of an episode; 'as-classes': split files list "
        "rotated classes; 'none': never rotated"
    )
    splits: Annotated[Splits, Field(discriminator="kind")] = Field(
        description="which class is in which split; see splits below"
    )
    source_sha256: Sha256 | None = Field(
        default=None, description="hash over names and decoded pixels of the raw source; null: no check"
    )
    generator_seed: int | None = Field(default=None, ge=0, description="seed of an embedded data set")

    @property
    def in_colour(self) -> bool:
        """Whether an image has three values a pixel."""
        return self.kind == "mini-imagenet" or (self.channels is not None and self.channels.value == "rgb")

    @property
    def values_per_image(self) -> int:
        """D: values of a flattened image."""
        return self.image_size_px.value**2 * (3 if self.in_colour else 1)

    @property
    def class_sizes(self) -> Unequal:
        """The smallest and largest allowed number of images of a class."""
        per_class = self.examples_per_class
        return per_class if isinstance(per_class, Unequal) else Unequal(min=per_class, max=per_class)


_PUBLISHED = re.compile(r"^(\d{1,2}(?:\.\d+)?)(?: \+- (\d{1,2}(?:\.\d+)?))?$")


class Published(Model):
    """An accuracy as a paper prints it, in percent: '60.2' or '60.2 +- 0.91'."""

    text: str

    @property
    def accuracy(self) -> float:
        """Fraction in [0, 1]."""
        return float(Decimal(self._groups()[0]) / 100)  # decimal: 95.7 is 0.957

    @property
    def half_width(self) -> float | None:
        """Half the 95% interval as a fraction, or None where the paper prints none."""
        half = self._groups()[1]
        return None if half is None else float(Decimal(half) / 100)

    def _groups(self) -> tuple[str, str | None]:
        match = _PUBLISHED.match(self.text)
        if match is None:
            raise ValueError(f"'{self.text}' is not of the form '60.2' or '60.2 +- 0.91' (percent)")
        return match.group(1), match.group(2)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @field_validator("text")
    @classmethod
    def _well_formed(cls, text: str) -> str:
        if not _PUBLISHED.match(text):
            raise ValueError(f"'{text}' is not of the form '60.2' or '60.2 +- 0.91' (percent)")
        return text


class Column(Model):
    """One column of a table: a benchmark at one number of shots."""

    title: Text = Field(description="column heading")
    benchmark: Id | None = Field(default=None, description="null: the column shows published numbers only")
    shots: Shots = Field(description="K")


class Row(Model):
    """One row of a table: a published method, one of ours, or both."""

    title: Text = Field(description="row heading")
    method: Id | None = Field(default=None, description="a method's id; null: the row shows published numbers only")
    benchmark: Id | None = Field(default=None, description="replaces the benchmarks of all columns")
    published: dict[str, Published] = Field(default={}, description="published numbers, by column title")
    citation: Text = Field(description="source of the published numbers")


class SecondTest(Model):
    """Another test protocol for the same weights, run with `norml evaluate`."""

    title: Text = Field(description="heading of its columns")
    changed: dict[Text, int | str] = Field(min_length=1, description="changed protocol values")


class TableEntry(Entry):
    """A table of the paper: its rows, columns and published numbers."""

    reference: Id | None = Field(default=None, description="every row is compared with this method")
    first_episodes: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="also show our accuracy on this many test episodes, for papers that test on fewer",
    )
    second_test: SecondTest | None = Field(
        default=None, description="another test protocol, shown in extra columns; see below"
    )
    columns: list[Column] = Field(min_length=1, description="from left to right; see below")
    rows: list[Row] = Field(min_length=1, description="from top to bottom; see below")

    @model_validator(mode="after")
    def _published_columns_exist(self) -> "TableEntry":
        titles = {column.title for column in self.columns}
        for row in self.rows:
            for title in row.published:
                if title not in titles:
                    raise ValueError(f"row '{row.title}' has a number for column '{title}', which is not declared")
        return self
