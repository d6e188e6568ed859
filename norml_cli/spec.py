"""What a registry entry may say: pydantic models of datasets, benchmarks, methods, pretraining recipes and
tables, and the resolved run and pretraining.

Torch-free, so that `list`, `validate`'s reading half and `report` start at once. A value that decides a number is
written in YAML as `{value: ..., source: "..."}`; the source names the paper's section or equation, another paper's
place, or `chosen: why`. The plain models (`Protocol`, `Recipe`, the rules of `norml_cli.rules`) describe the values
once; the `*Entry` models, made from them, describe the same values with their sources.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, Literal, Union

from pydantic import Field, SerializeAsAny, ValidationInfo, create_model, field_validator, model_validator

from norml_cli.declared import Model, Sourced, Text, with_sources
from norml_cli.rules import Rule, found_rules

ID_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"

Id = Annotated[str, Field(pattern=ID_PATTERN, max_length=64)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Shots = Annotated[int, Field(ge=1, le=1000)]
Rgb = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
PositiveRgb = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]


class Protocol(Model):
    """Every value of one experiment that is not the update rule's own."""

    n_way: int = Field(ge=2, le=1000, description="N: classes per episode")
    queries_per_class: int = Field(ge=1, le=1000, description="Q: query examples per class, in training and test")
    rotations: Literal["every-split", "meta-train", "none"] = Field(
        description="which splits turn each class of an episode by one of 0, 90, 180, 270 degrees"
    )
    hidden_sizes: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(
        max_length=32, description="neurons of each hidden layer; an empty list is a single linear layer"
    )
    batch_norm_scale: bool = Field(description="whether batch norm learns a scale besides its shift (outer loop only)")
    batch_norm_epsilon: float = Field(gt=0, lt=1, description="added to the variance in batch norm")
    query_statistics: Literal["query", "support"] = Field(
        description="batch norm of query examples by their own statistics (transductive) or by the support set's"
    )
    initial_weight_std: Annotated[float, Field(gt=0, le=10)] | Literal["he"] = Field(
        description="standard deviation of the truncated-normal initial weights; 'he' = sqrt(2 / inputs)"
    )
    inner_lr: float = Field(gt=0, le=1000, description="eta, stated on mean cross-entropy over the support set")
    inner_steps: int = Field(ge=0, le=10_000, description="T: inner steps in meta-training")
    inner_steps_test: int = Field(ge=0, le=10_000, description="inner steps in meta-validation and meta-test")
    first_order: bool = Field(description="whether the meta-gradient ignores how signals depend on the weights")
    meta_batch_size: int = Field(ge=1, le=4096, description="E: episodes per outer step")
    outer_steps: int = Field(
        ge=0, le=10_000_000, description="outer steps of meta-training; 0: the initial weights are tested as they are"
    )
    outer_lr: float = Field(gt=0, le=10, description="learning rate of the outer Adam")
    outer_schedule: Literal["constant", "cosine"] = Field(description="outer learning rate over meta-training")
    gradient_clip: Annotated[float, Field(gt=0)] | None = Field(
        description="each element of the meta-gradient is clipped to +- this value; null clips nothing"
    )
    validate_every: Count = Field(description="outer steps between meta-validations; the best one is tested")
    validation_episodes: Count = Field(description="fixed meta-validation episodes")
    test_episodes: int = Field(ge=2, le=1_000_000, description="fixed meta-test episodes, shared by all methods")
    episode_seed: int = Field(ge=0, lt=2**31, description="seed from which the fixed episodes are drawn")
    # What follows has defaults, which a spec's hash leaves out: a run that takes them is the same run.
    backbone: Id | None = Field(
        default=None, description="recipe whose pretrained, frozen features take the images' place; null: images"
    )
    backbone_seed: int = Field(default=0, ge=0, lt=2**31, description="seed of that pretraining")
    feature_scaling: Literal["none", "unit-length"] = Field(
        default="none", description="what is done to each example's features"
    )
    gradient_norm_limit: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="a longer meta-gradient, over all that is learned, is shortened to it; null: none is"
    )
    # How it is computed.
    matmul_precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32",
        description="of matrix products, where the device has a faster one; published numbers: float32",
    )
    weight_form: Literal["auto", "materialised", "factored"] = Field(
        default="auto",
        description="how adapted weights are held: 'auto' takes the cheaper form of each layer; "
        "weights with a rate each are materialised always",
    )
    recompute: bool = Field(
        default=False, description="compute each inner step again in the reverse instead of keeping it: less memory"
    )


class Recipe(Model):
    """Every value of the pretraining of one ResNet-12 backbone."""

    input_size_px: int = Field(
        ge=16, le=1024, description="side of the network's input; images are averaged down to it"
    )
    pixel_mean: Rgb = Field(description="subtracted from pixels in 0..1, by colour")
    pixel_std: PositiveRgb = Field(description="what the difference is divided by, by colour")
    widths: list[Annotated[int, Field(ge=1, le=8192)]] = Field(
        min_length=4, max_length=4, description="channels of the four blocks; the last is the number of features"
    )
    convolution_biases: bool = Field(description="whether the 3x3 convolutions have biases")
    batch_norm_scale: bool = Field(description="whether batch norm learns a scale besides its shift")
    batch_norm_epsilon: float = Field(gt=0, lt=1, description="added to the variance in batch norm")
    skip_batch_norm: bool = Field(description="whether the 1x1 convolution of the skip is normalised")
    activate_after_sum: bool = Field(
        description="whether the sum of both branches is activated, or the third 3x3 alone"
    )
    initial_weights: Literal["he", "xavier"] = Field(description="'he': normal, by fan-out; 'xavier': uniform")
    drop_rate: float = Field(ge=0, lt=1, description="share of a block's output that training drops")
    drop_block_size: Annotated[int, Field(ge=1, le=64)] | None = Field(
        description="side of the squares that blocks 3 and 4 drop (DropBlock); null: single values in every block"
    )
    drop_ramp_steps: int = Field(ge=0, le=10_000_000, description="steps over which squares reach drop_rate from 0")
    crop_padding_px: int = Field(ge=0, le=64, description="zeros around an image before it is cropped at random")
    colour_jitter: float = Field(ge=0, le=1, description="random change of brightness, contrast and saturation")
    flip: bool = Field(description="whether half of the images are mirrored left to right")
    images_per_draw: int = Field(ge=1, le=4096, description="images of a batch that share one draw of augmentation")
    batch_size: int = Field(ge=2, le=65_536, description="images per step")
    steps: Count = Field(description="steps of the whole pretraining")
    optimiser: Literal["adam", "sgd"] = Field(description="Adam, or stochastic gradient descent with momentum")
    learning_rate: float = Field(gt=0, le=10, description="of the first step")
    momentum: float = Field(ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(ge=0, le=1, description="L2 penalty on all learned values")
    schedule: Literal["drops", "cosine"] = Field(description="'drops': at lr_drops; 'cosine': falls to 0 at the end")
    lr_drops: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        max_length=32, description="where, as fractions of all steps, the learning rate is multiplied by lr_factor"
    )
    lr_factor: float = Field(gt=0, le=1, description="of each drop of the learning rate")
    validations: int = Field(
        ge=1, le=10_000, description="meta-validations, evenly spaced; the best one's weights stay"
    )
    n_way: int = Field(ge=2, le=1000, description="N: classes of a meta-validation episode")
    shots: list[Shots] = Field(min_length=1, description="K values whose nearest-centroid accuracies are averaged")
    queries_per_class: int = Field(ge=1, le=1000, description="Q: query examples per class of an episode")
    validation_episodes: int = Field(ge=2, le=1_000_000, description="fixed meta-validation episodes of each K")
    episode_seed: int = Field(ge=0, lt=2**31, description="seed from which the fixed episodes are drawn")


RULES = found_rules()

ProtocolEntry = with_sources(Protocol, "ProtocolEntry", partial=True)
RecipeValuesEntry = with_sources(Recipe, "RecipeValuesEntry", partial=False)


class Entry(Model):
    """What every registry file starts with."""

    id: Id = Field(description="the file's name without .yaml")
    title: Text = Field(description="the name that tables print")
    citation: Text = Field(description="where it was published, or 'this project'")


EVERYWHERE = "everywhere"  # in place of a benchmark's id


class Method(Entry):
    """A meta-learning method: an algorithm and its switches."""

    default_benchmark: Id = Field(description="the benchmark that `norml run` takes without --benchmark")
    protocol: dict[Id, ProtocolEntry] = Field(  # type: ignore[valid-type]
        default={},
        description=f"values that differ from a benchmark's, by benchmark id; under '{EVERYWHERE}': from every one's",
    )
    protocol_by_shots: dict[Id, dict[Shots, ProtocolEntry]] = Field(  # type: ignore[valid-type]
        default={}, description="values that differ on a benchmark by its shots too, by its id"
    )
    algorithm: str = Field(description="the rule that `rule` is the settings of")
    rule: Any = Field(description="the rule's settings, every one of them")
    rule_by_shots: Any = Field(default={}, description="settings that differ on a benchmark by its shots, by its id")

    def protocol_layers(self, benchmark: str, shots: int) -> dict[str, Any]:
        """The method's own values on a benchmark, each layer by its place in the file; later layers win."""
        layers = {f"protocol.{id_}": self.protocol.get(id_) for id_ in (EVERYWHERE, benchmark)}
        layers[f"protocol_by_shots.{benchmark}.{shots}"] = self.protocol_by_shots.get(benchmark, {}).get(shots)
        return {place: layer for place, layer in layers.items() if layer is not None}


def _method_of(algorithm: str, rule: type[Rule]) -> type[Method]:
    """An entry's model whose settings are those of `rule`."""
    name = rule.__name__
    settings: Any = with_sources(rule, f"{name}Entry", partial=False)
    some: Any = with_sources(rule, f"{name}PartEntry", partial=True)
    fields: dict[str, Any] = {
        "algorithm": (Literal[algorithm], ...),
        "rule": (settings, Method.model_fields["rule"]),
        "rule_by_shots": (dict[Id, dict[Shots, some]], Method.model_fields["rule_by_shots"]),
    }
    return create_model(f"{name.removesuffix('Rule')}Method", __base__=Method, __module__=__name__, **fields)


METHODS = {algorithm: _method_of(algorithm, rule) for algorithm, rule in RULES.items()}
AnyMethod: Any = Annotated[Union[*METHODS.values()], Field(discriminator="algorithm")]


class RecipeEntry(Entry):
    """A way to pretrain a backbone."""

    recipe: RecipeValuesEntry  # type: ignore[valid-type]

    @property
    def values(self) -> Recipe:
        """The recipe without its sources."""
        return Recipe(**{key: getattr(self.recipe, key).value for key in Recipe.model_fields})


class BenchmarkEntry(Entry):
    """A few-shot problem: data, episodes, learner, schedule and evaluation."""

    dataset: Id
    shots: list[Shots] = Field(min_length=1, description="K values that may be run; the first is the default")
    protocol: ProtocolEntry  # type: ignore[valid-type]
    protocol_by_shots: dict[Shots, ProtocolEntry] = Field(  # type: ignore[valid-type]
        default={}, description="values that differ by shots"
    )


class SeededSplit(Model):
    """Classes shuffled by the SHA-256 of 'seed/class', then cut: no file-system order, no library's generator."""

    kind: Literal["seeded"]
    seed: int = Field(ge=0)
    meta_train: Count
    meta_val: Count
    meta_test: Count
    source: Text


class FileSplit(Model):
    """Classes listed in text files, one `Alphabet/character[/rotNNN]` a line; paths relative to the entry's file."""

    kind: Literal["files"]
    meta_train: Text
    meta_val: Text
    meta_test: Text
    source: Text


class SourceSplit(Model):
    """Classes as the raw source itself splits them; declared are how many each split must hold."""

    kind: Literal["from-source"]
    meta_train: Count
    meta_val: Count
    meta_test: Count
    source: Text


class DatasetEntry(Entry):
    """Images by class: where they come from, how they are checked and what is done to them."""

    kind: Literal["omniglot", "glyphs", "mini-imagenet"] = Field(description="the code that reads or makes it")
    home: Text = Field(description="public home, or 'embedded'")
    licence: Text
    classes: Count
    examples_per_class: Count
    image_size_px: Sourced[Annotated[int, Field(ge=4, le=1024)]]
    resize: Sourced[Literal["lanczos", "nearest", "none"]] = Field(description="filter; lanczos works on grey levels")
    invert: Sourced[bool] = Field(description="whether ink becomes 1 and paper 0")
    rotations: Sourced[Literal["per-episode", "as-classes", "none"]] = Field(
        description="drawn per class and episode if the benchmark asks for it; listed in the split files; or never"
    )
    splits: Annotated[SeededSplit | FileSplit | SourceSplit, Field(discriminator="kind")]
    content_sha256: Sha256 | None = Field(
        default=None, description="hash over names and decoded pixels of the raw source; null: nothing to check"
    )
    generator_seed: int | None = Field(default=None, ge=0, description="seed of an embedded data set")

    @property
    def in_colour(self) -> bool:
        """Whether an image has three values a pixel."""
        return self.kind == "mini-imagenet"


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

    title: Text
    benchmark: Id | None = Field(default=None, description="null: a column of published numbers only")
    shots: Shots


class Row(Model):
    """One row of a table: a published method, one of ours, or both."""

    title: Text
    method: Id | None = Field(default=None, description="the registry's method; null: a published row only")
    benchmark: Id | None = Field(default=None, description="the row's own, in place of the columns'")
    published: dict[str, Published] = Field(default={}, description="the paper's numbers, by column title")
    citation: Text


class TableEntry(Entry):
    """A table of the paper: its rows, columns and published numbers."""

    reference: Id | None = Field(default=None, description="the method that paired differences are taken against")
    first_episodes: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="also give our accuracy over so many test episodes, the first ones: as many as a paper's",
    )
    columns: list[Column] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _published_columns_exist(self) -> "TableEntry":
        titles = {column.title for column in self.columns}
        for row in self.rows:
            for title in row.published:
                if title not in titles:
                    raise ValueError(f"row '{row.title}' has a number for column '{title}', which is not declared")
        return self


class RunSpec(Model):
    """Everything that decides one run's numbers but the seed: a method on a benchmark at K shots, resolved."""

    method: Id
    benchmark: Id
    dataset: Id
    shots: Shots
    algorithm: Literal[*RULES]  # type: ignore[valid-type]
    protocol: Protocol
    rule: SerializeAsAny[Rule]

    @field_validator("rule", mode="before")
    @classmethod
    def _rule_of_algorithm(cls, value: Any, info: ValidationInfo) -> Any:
        """Read plain data as the rule that `algorithm` names, so that a fault names that rule's keys only."""
        model = RULES.get(info.data.get("algorithm", ""))
        return model.model_validate(value) if model is not None else value

    def hash(self) -> str:
        """SHA-256 over the canonical JSON of all values that are not defaults: equal hashes, equal protocols."""
        return content_hash(self.model_dump(mode="json", exclude_defaults=True))

    @property
    def examples_of_an_outer_step(self) -> int:
        """E * S: the support examples of all episodes of an outer step."""
        return self.protocol.meta_batch_size * self.protocol.n_way * self.shots

    def values_of(self, keys: Iterable[str]) -> dict[str, Any]:
        """What the protocol or the rule says under each of `keys`; those of other rules are left out."""
        said = self.protocol.model_dump() | self.rule.model_dump()
        return {key: said[key] for key in keys if key in said}

    def title(self, changed: Iterable[str], seed: int) -> str:
        """'norml, omniglot-20way, 1-shot, seed 0, gate_scale 8.0': what a person tells runs apart by."""
        return ", ".join([self.method, self.benchmark, f"{self.shots}-shot", f"seed {seed}", *self.shown(changed)])

    def shown(self, keys: Iterable[str]) -> list[str]:
        """`values_of` as a person reads them: 'gate_scale 8.0'."""
        return [f"{key} {value}" for key, value in self.values_of(keys).items()]


class PretrainSpec(Model):
    """Everything that decides one pretraining's numbers but the seed."""

    dataset: Id
    recipe: Id
    values: Recipe

    def hash(self) -> str:
        """SHA-256 over the canonical JSON of all values: equal hashes, equal pretrainings."""
        return content_hash(self.model_dump(mode="json"))


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
