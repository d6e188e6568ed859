"""All values of an experiment and of a pretraining: types, ranges and meaning. Torch-free."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from norml_cli.registry.sourced import Model

ID_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
STUDIES, PRETRAINING, OTHER_PROTOCOLS, SPEED = "studies", "pretraining", "other-protocols", "speed"
RESERVED_IDS = frozenset({STUDIES, PRETRAINING, OTHER_PROTOCOLS, SPEED, "pictures", "trust"})  # folders in results/
SHA256_PATTERN = r"^[0-9a-f]{64}$"

HELD_OUT_EVERY = 10  # pretraining holds out one image in ten of each training class: the 1st, the 11th, ...

Id = Annotated[str, Field(pattern=ID_PATTERN, max_length=64)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Shots = Annotated[int, Field(ge=1, le=1000)]
Rgb = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
PositiveRgb = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]

Precision = Literal["auto", "float32", "bfloat16"]


class Protocol(Model):
    """All values of an experiment, except the settings of its update rule."""

    n_way: int = Field(ge=2, le=1000, description="N: classes per episode")
    queries_per_class: int = Field(ge=1, le=1000, description="Q: query examples per class, in training and test")
    rotations: Literal["every-split", "meta-train", "none"] = Field(
        description="splits whose episodes rotate each class by 0, 90, 180 or 270 degrees"
    )
    hidden_sizes: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(
        max_length=32,
        description="neurons of each hidden layer, or channels of each convolution; [] means a single linear layer",
    )
    batch_norm_scale: bool = Field(
        description="whether batch norm learns a scale in addition to a shift (outer loop only)"
    )
    batch_norm_epsilon: float = Field(gt=0, lt=1, description="added to the variance in batch norm")
    query_statistics: Literal["query", "support"] = Field(
        description="statistics for batch norm of the queries: of the queries (transductive) or of the support set"
    )
    initial_weight_std: Annotated[float, Field(gt=0, le=10)] | Literal["he", "xavier"] = Field(
        description="standard deviation of the truncated-normal initial weights; 'he' = sqrt(2 / inputs); "
        "'xavier' = uniform with variance 2 / (inputs + outputs), where a convolution counts every place of its window"
    )
    inner_lr: float = Field(gt=0, le=1000, description="eta; for the mean cross-entropy over the examples of a step")
    inner_steps: int = Field(ge=0, le=10_000, description="T: inner steps in meta-training")
    inner_steps_test: int = Field(ge=0, le=10_000, description="inner steps in meta-validation and meta-test")
    first_order: bool = Field(description="whether the meta-gradient omits second derivatives (first-order MAML)")
    meta_batch_size: int = Field(ge=1, le=4096, description="E: episodes per outer step")
    outer_steps: int = Field(
        ge=0, le=10_000_000, description="outer steps of meta-training; 0 tests the initial weights"
    )
    outer_lr: float = Field(gt=0, le=10, description="learning rate of the outer Adam")
    outer_schedule: Literal["constant", "cosine"] = Field(description="schedule of the outer learning rate")
    gradient_clip: Annotated[float, Field(gt=0)] | None = Field(
        description="clip each element of the meta-gradient to +- this value; null: no clipping"
    )
    validate_every: Count = Field(description="outer steps between meta-validations; the best weights are tested")
    validation_episodes: Count = Field(description="number of fixed meta-validation episodes")
    test_episodes: int = Field(
        ge=2, le=1_000_000, description="number of fixed meta-test episodes, the same for all methods"
    )
    episode_seed: int = Field(ge=0, lt=2**31, description="seed of the fixed episodes")
    # A spec's hash leaves defaults out, so that a new value does not change the hashes of earlier runs.
    backbone: Id | None = Field(
        default=None, description="recipe of a pretrained, frozen backbone that makes features; null: use the images"
    )
    backbone_seed: int = Field(default=0, ge=0, lt=2**31, description="seed of the backbone's pretraining")
    backbone_epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="`norml pretrain --epochs` of the backbone; null: the recipe's steps"
    )
    backbone_width: Annotated[int, Field(ge=1, le=8192)] | None = Field(
        default=None, description="`norml pretrain --width` of the backbone; null: the recipe's widths"
    )
    feature_scaling: Literal["none", "unit-length"] = Field(
        default="none", description="scaling of each example's features"
    )
    adapted_layers: Literal["all", "head", "body"] = Field(
        default="all",
        description="layers that inner steps change: all, the last ('head'), or all but the last ('body', which needs "
        "hidden layers)",
    )
    gradient_norm_limit: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="largest norm of the meta-gradient over all parameters; null: no limit"
    )
    support_order: Literal["full", "one-by-one"] = Field(
        default="full",
        description="examples of an inner step: the whole support set, or one example as in the paper's Algorithm 1, "
        "where inner_steps counts passes over the support set",
    )
    training_examples: Literal["all", "held-out-from-pretraining"] = Field(
        default="all",
        description="examples of meta-training episodes: all, or only the tenth of each class that pretraining "
        "held out",
    )
    outer_gradient: Literal["query-loss", "every-step", "reptile"] = Field(
        default="query-loss",
        description="gradient of an outer step: of the query loss after the last inner step; at first of a weighted "
        "sum over all inner steps ('every-step', MAML++); or the direction of the inner steps ('reptile')",
    )
    multi_step_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="share of outer_steps in which every-step uses the losses of all inner steps: weights are equal at "
        "first and move to the last step, which is the only one afterwards",
    )
    # Options against overfitting to the meta-training classes.
    training_classes: Literal["meta-train", "meta-train-and-meta-val"] = Field(
        default="meta-train",
        description="classes of training episodes; with meta-val among them, accuracy on meta-validation no longer "
        "measures new classes",
    )
    training_turns: Literal["per-episode", "as-classes"] = Field(
        default="per-episode",
        description="how rotations applies to training classes: one rotation for each class of an episode, or the four "
        "rotations of a class as four separate classes (Santoro et al. 2016)",
    )
    training_shift_px: int = Field(
        default=0, ge=0, le=1024, description="shift each training image by up to this many pixels along both axes"
    )
    training_tilt_degrees: float = Field(
        default=0, ge=0, le=180, description="rotate each training image about its centre by up to this angle"
    )
    weight_average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="decay of an exponential moving average of the parameters; the average is validated, kept and "
        "tested; null: no average",
    )
    # A learner that is not fully connected.
    learner: Literal["fully-connected", "conv-4"] = Field(
        default="fully-connected", description="the adapted network; conv-4: four convolutions, then one linear layer"
    )
    kernel_size: int = Field(default=3, ge=1, le=15, description="side of a convolution's window")
    stride: int = Field(default=2, ge=1, le=15, description="step of a convolution's window, in positions")
    padding: Literal["same", "none"] = Field(
        default="same",
        description="'same' pads a convolution's maps with zeros, which gives ceil(side / stride) windows in a row",
    )
    pooling: Literal["none", "max-2x2"] = Field(
        default="none", description="pooling of a convolution's maps after ReLU"
    )
    map_end: Literal["mean", "flatten"] = Field(
        default="mean",
        description="input of the linear layer: each channel's mean over the positions of the last maps, or all values",
    )
    head_weight_std: Annotated[float, Field(gt=0, le=10)] | Literal["he", "xavier"] | None = Field(
        default=None, description="initial_weight_std of the last layer; null: the same as the other layers"
    )
    head_init: Literal["learned", "zero"] = Field(
        default="learned",
        description="last layer before the first inner step: learned, with a row for each class, or zero, which works "
        "for any number of classes (one learned row shared by all classes, UNICORN-MAML, predicts the same as zero)",
    )
    # How it is computed.
    matmul_precision: Literal["float32", "tf32", "bfloat16"] = Field(
        default="float32",
        description="precision of matrix products; published numbers use float32",
    )
    weight_form: Literal["auto", "materialised", "factored"] = Field(
        default="auto",
        description="form of adapted weights: 'auto' takes the cheaper form for each layer; "
        "weights with a rate each are always materialised",
    )
    recompute: bool = Field(
        default=False, description="recompute each inner step in the backward pass: less memory, more time"
    )


OF_CONVOLUTIONS = ("kernel_size", "stride", "padding", "pooling", "map_end")  # unused without convolutions


class Recipe(Model):
    """All values of the pretraining of a ResNet-12 backbone."""

    input_size_px: int = Field(
        ge=16, le=1024, description="side of the network's input; larger images are averaged down to it"
    )
    pixel_mean: Rgb = Field(description="mean of each colour, subtracted from pixels in 0..1")
    pixel_std: PositiveRgb = Field(description="standard deviation of each colour, which divides the difference")
    widths: list[Annotated[int, Field(ge=1, le=8192)]] = Field(
        min_length=4, max_length=4, description="channels of the four blocks; the last is the number of features"
    )
    convolution_biases: bool = Field(description="whether the 3x3 convolutions have biases")
    batch_norm_scale: bool = Field(description="whether batch norm learns a scale in addition to a shift")
    batch_norm_epsilon: float = Field(gt=0, lt=1, description="added to the variance in batch norm")
    skip_batch_norm: bool = Field(description="whether the skip's 1x1 convolution has batch norm")
    activate_after_sum: bool = Field(
        description="whether the activation comes after the sum of both branches or after the third 3x3 convolution"
    )
    initial_weights: Literal["he", "xavier"] = Field(description="'he': normal, by fan-out; 'xavier': uniform")
    drop_rate: float = Field(ge=0, lt=1, description="dropout rate of a block's output")
    drop_block_size: Annotated[int, Field(ge=1, le=64)] | None = Field(
        description="side of the squares that blocks 3 and 4 drop (DropBlock); null: dropout in every block"
    )
    drop_ramp_steps: int = Field(ge=0, le=10_000_000, description="steps in which DropBlock's rate rises from 0")
    crop_padding_px: int = Field(ge=0, le=64, description="zeros added around an image before the random crop")
    colour_jitter: float = Field(ge=0, le=1, description="random change of brightness, contrast and saturation")
    flip: bool = Field(description="whether half of the images are mirrored left to right")
    images_per_draw: int = Field(ge=1, le=4096, description="images of a batch that share one random augmentation")
    batch_size: int = Field(ge=2, le=65_536, description="images per step")
    steps: Count = Field(description="steps of the whole pretraining")
    optimiser: Literal["adam", "sgd"] = Field(description="Adam, or stochastic gradient descent with momentum")
    learning_rate: float = Field(gt=0, le=10, description="learning rate of the first step")
    momentum: float = Field(ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(ge=0, le=1, description="L2 penalty on all parameters")
    schedule: Literal["drops", "cosine"] = Field(
        description="learning rate: 'drops' falls at lr_drops, 'cosine' falls smoothly to 0"
    )
    lr_drops: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        max_length=32, description="when the learning rate is multiplied by lr_factor, as fractions of all steps"
    )
    lr_factor: float = Field(gt=0, le=1, description="factor of each drop of the learning rate")
    validations: int = Field(
        ge=1, le=10_000, description="number of meta-validations, evenly spaced; the best weights are kept"
    )
    n_way: int = Field(ge=2, le=1000, description="N: classes per meta-validation episode")
    shots: list[Shots] = Field(
        min_length=1, description="values of K; meta-validation averages their nearest-centroid accuracies"
    )
    queries_per_class: int = Field(ge=1, le=1000, description="Q: query examples per class of an episode")
    validation_episodes: int = Field(
        ge=2, le=1_000_000, description="number of fixed meta-validation episodes for each K"
    )
    episode_seed: int = Field(ge=0, lt=2**31, description="seed of the fixed episodes")
    # How it is computed. A spec's hash leaves defaults out, so that earlier pretrainings keep their hashes.
    batch_statistics: Literal["whole-batch", "per-rank"] = Field(
        default="whole-batch",
        description="batch-norm statistics when several ranks share a batch: of the whole batch, as on one rank, or of "
        "each rank's part, which avoids communication",
    )
    precision: Precision = Field(
        default="auto",
        description="precision of the network: 'auto' takes bfloat16 on a GPU, and on a CPU where a short trial finds "
        "it faster; the record says which",
    )

    @property
    def backbone_parameters(self) -> int:
        """Number of parameters of the ResNet-12; a block has three 3x3 convolutions and one 1x1 convolution."""
        of_norm = 1 + self.batch_norm_scale
        for_each_channel = 3 * (self.convolution_biases + of_norm) + self.skip_batch_norm * of_norm
        return sum(
            9 * (n_in * n_out + 2 * n_out**2) + n_in * n_out + for_each_channel * n_out
            for n_in, n_out in pairwise([3, *self.widths])
        )


def held_out_of(examples_per_class: int) -> int:
    """How many images of a training class pretraining holds out."""
    return -(-examples_per_class // HELD_OUT_EVERY)
