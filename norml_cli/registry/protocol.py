"""The values of an experiment and of a pretraining, described once: their types, ranges and meaning. Torch-free."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from norml_cli.registry.sourced import Model

ID_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
RESERVED_IDS = frozenset({"other-protocols", "pretraining", "speed", "studies", "trust"})  # folders below results/
SHA256_PATTERN = r"^[0-9a-f]{64}$"

HELD_OUT_EVERY = 10  # one image in ten of each training class, the first among them, is kept from a backbone's training

Id = Annotated[str, Field(pattern=ID_PATTERN, max_length=64)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
Shots = Annotated[int, Field(ge=1, le=1000)]
Rgb = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
PositiveRgb = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]

Precision = Literal["auto", "float32", "bfloat16"]


class Protocol(Model):
    """Every value of one experiment that is not the update rule's own."""

    n_way: int = Field(ge=2, le=1000, description="N: classes per episode")
    queries_per_class: int = Field(ge=1, le=1000, description="Q: query examples per class, in training and test")
    rotations: Literal["every-split", "meta-train", "none"] = Field(
        description="which splits turn each class of an episode by one of 0, 90, 180, 270 degrees"
    )
    hidden_sizes: list[Annotated[int, Field(ge=1, le=65_536)]] = Field(
        max_length=32,
        description="neurons of each hidden layer, or channels of each convolution; "
        "an empty list is a single linear layer",
    )
    batch_norm_scale: bool = Field(description="whether batch norm learns a scale besides its shift (outer loop only)")
    batch_norm_epsilon: float = Field(gt=0, lt=1, description="added to the variance in batch norm")
    query_statistics: Literal["query", "support"] = Field(
        description="batch norm of query examples by their own statistics (transductive) or by the support set's"
    )
    initial_weight_std: Annotated[float, Field(gt=0, le=10)] | Literal["he", "xavier"] = Field(
        description="standard deviation of the truncated-normal initial weights; 'he' = sqrt(2 / inputs); "
        "'xavier': uniform, of variance 2 / (inputs + outputs), those of a convolution counted over its window"
    )
    inner_lr: float = Field(gt=0, le=1000, description="eta, stated on mean cross-entropy over what a step sees")
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
    backbone_epochs: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        default=None, description="`norml pretrain --epochs` of that pretraining; null: the recipe's steps"
    )
    backbone_width: Annotated[int, Field(ge=1, le=8192)] | None = Field(
        default=None, description="`norml pretrain --width` of that pretraining; null: the recipe's widths"
    )
    feature_scaling: Literal["none", "unit-length"] = Field(
        default="none", description="what is done to each example's features"
    )
    adapted_layers: Literal["all", "head", "body"] = Field(
        default="all",
        description="which layers inner steps change: all, the last one (head), or all but that (body; without hidden "
        "layers there is none)",
    )
    gradient_norm_limit: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="a longer meta-gradient, over all that is learned, is shortened to it; null: none is"
    )
    support_order: Literal["full", "one-by-one"] = Field(
        default="full",
        description="what an inner step sees: the whole support set, or one example, as in the paper's Algorithm 1; "
        "inner_steps then counts passes over the support set",
    )
    training_examples: Literal["all", "held-out-from-pretraining"] = Field(
        default="all",
        description="of which examples of the meta-training classes episodes are made: all, or those that the "
        "backbone was not fitted to, one in ten",
    )
    outer_gradient: Literal["query-loss", "every-step", "reptile"] = Field(
        default="query-loss",
        description="what an outer step follows: the query loss after the last inner step; for a while the losses "
        "after every one, weighed ('every-step', MAML++); or the way that inner steps go ('reptile')",
    )
    multi_step_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="of outer_steps, the share in which every-step weighs the losses of all inner steps: alike at "
        "first, then ever more the last one, which is alone afterwards",
    )
    # What may bring meta-training closer to new classes.
    training_classes: Literal["meta-train", "meta-train-and-meta-val"] = Field(
        default="meta-train",
        description="of which classes training episodes are made; with those of meta-validation, its accuracy says "
        "nothing of new classes",
    )
    training_turns: Literal["per-episode", "as-classes"] = Field(
        default="per-episode",
        description="where rotations turns training classes: each class of an episode by one quarter turn, or the "
        "four turns of a class as four classes of their own (Santoro et al. 2016)",
    )
    training_shift_px: int = Field(
        default=0, ge=0, le=1024, description="each training image is moved by up to so many pixels along both axes"
    )
    training_tilt_degrees: float = Field(
        default=0, ge=0, le=180, description="each training image is turned about its centre by up to so much"
    )
    weight_average: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="what is meta-validated, kept and tested is a moving average of all that is learned, which keeps "
        "this share of itself at each outer step; null: the last values",
    )
    # A learner that is not fully connected.
    learner: Literal["fully-connected", "conv-4"] = Field(
        default="fully-connected", description="what is adapted; conv-4: four convolutions, then one linear layer"
    )
    kernel_size: int = Field(default=3, ge=1, le=15, description="side of a convolution's window")
    stride: int = Field(default=2, ge=1, le=15, description="by which a convolution's window moves")
    padding: Literal["same", "none"] = Field(
        default="same",
        description="'same': zeros around a convolution's maps: ceil(side / stride) windows in a row",
    )
    pooling: Literal["none", "max-2x2"] = Field(default="none", description="of a convolution's maps, after the ReLU")
    map_end: Literal["mean", "flatten"] = Field(
        default="mean",
        description="what the linear layer gets of the last maps: each channel's mean over positions, or all values",
    )
    head_weight_std: Annotated[float, Field(gt=0, le=10)] | Literal["he", "xavier"] | None = Field(
        default=None, description="initial_weight_std of the last layer; null: the same"
    )
    head_init: Literal["learned", "zero"] = Field(
        default="learned",
        description="what the last layer is before the first inner step: learned, a row for each class, or zero; what "
        "is trained from zero serves any number of classes (a learned row shared by all, UNICORN-MAML, gives the same "
        "answers as zero)",
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


OF_CONVOLUTIONS = ("kernel_size", "stride", "padding", "pooling", "map_end")  # what means nothing without them


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
    # How it is computed; defaults are left out of a spec's hash, so that earlier pretrainings stay what they are.
    batch_statistics: Literal["whole-batch", "per-rank"] = Field(
        default="whole-batch",
        description="of which images batch norm takes its statistics where several ranks share a batch: of all, as one "
        "rank would, or of each rank's own, which spares messages",
    )
    precision: Precision = Field(
        default="auto",
        description="of the network's arithmetic: 'auto' takes bfloat16 on a GPU, and on a CPU where a short trial of "
        "the recipe's own step finds it faster; the record tells which",
    )

    @property
    def backbone_parameters(self) -> int:
        """Learned values of its ResNet-12, counted from shapes: three 3x3 convolutions a block beside a 1x1 one."""
        of_norm = 1 + self.batch_norm_scale
        for_each_channel = 3 * (self.convolution_biases + of_norm) + self.skip_batch_norm * of_norm
        return sum(
            9 * (n_in * n_out + 2 * n_out**2) + n_in * n_out + for_each_channel * n_out
            for n_in, n_out in pairwise([3, *self.widths])
        )


def held_out_of(examples_per_class: int) -> int:
    """How many of a training class are held out from pretraining."""
    return -(-examples_per_class // HELD_OUT_EVERY)
