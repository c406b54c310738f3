"""The fields of an experiment: name, default, rule and one line of help, all in one table per section.

The tables are the only place that knows a field: defaults, checks, `--help` and the reference page come from them.
The section `method` is the dataclass of the method, which checks its fields itself.
"""

import dataclasses
from typing import Any

from vicreg_jax.config.rules import (
    AREA,
    BELOW_ONE,
    DEVICES,
    EXTEND,
    EXTENSIONS,
    FLAG,
    FRACTION,
    INTEGERS,
    INTEGERS_OR_NONE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_FRACTION,
    TEXT,
    TEXTS,
    VALUE_RANGE,
    Rule,
    are_numbers,
    at_least,
    one_of,
)


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the config.

    Attributes:
        default: its value where no file or override sets it; None: see `help`.
        rule: what it takes. None is taken too where it is the default.
        help: what it is for, in one line.
    """

    default: Any
    rule: Rule
    help: str

    @property
    def words(self) -> str:
        """The rule in words, which completes the sentence "config.seed must be ..."."""
        return self.rule.words + (", or None" if self.default is None else "")


Table = dict[str, Field]  # by dotted name, such as 'optim.base_lr'

# Fields of every task.
SHARED: Table = {
    "seed": Field(
        0, Rule(int, "an integer from 0 to 4294967295", lambda value: 0 <= value < 2**32), "of all random choices"
    ),
    "data.name": Field(
        "digits", TEXT, "dataset: digits, image_folder, webdataset, parquet, arrays, store, or a name that tfds knows"
    ),
    "data.data_dir": Field(None, TEXT, "where tfds keeps prepared datasets; None: its default"),
    "data.manual_dir": Field(
        None, TEXT, "files that you bring: a folder of images, of .tar, .parquet, .npy or IDX files, or an .npz file"
    ),
    "data.labels_file": Field(
        None, TEXT, "labels of a folder of images, in a .csv, .tsv or .json file; None: subfolders are the labels"
    ),
    "data.image_size": Field(32, at_least(1), "side of a view, in pixels"),
    "data.train_split": Field("train", TEXT, "split that is trained on, such as train[:90%]"),
    "data.test_split": Field("test", TEXT, "split that is evaluated on"),
    "data.placement": Field(
        "auto", one_of("auto", "device", "host"), "device: whole dataset on the devices; host: streamed; auto: by size"
    ),
    "data.workers": Field(
        0, at_least(0), "processes that decode images; 0: threads of the main process, one per core, 16 at most"
    ),
    "data.max_unreadable": Field(0.05, FRACTION, "fraction of unreadable images above which the run stops"),
    "data.max_pixels": Field(178_956_970, at_least(1), "pixels of the largest image; a larger one is unreadable"),
    "data.value_range": Field(
        "auto", VALUE_RANGE, "values that become 0 and 255 in images of more than 8 bits; dtype: 0 and 65535"
    ),
    "mesh.data": Field(-1, DEVICES, "devices along the data axis"),
    "mesh.fsdp": Field(1, DEVICES, "devices along the fsdp axis, over which large parameters are split"),
    "evaluation.knn_neighbors": Field(20, at_least(1), "neighbors of the kNN classifier"),
    "evaluation.knn_temperature": Field(0.07, POSITIVE, "temperature of the votes of the kNN classifier"),
    "evaluation.labels_per_class": Field((1, 5, 10), INTEGERS, "labels per class of the few-label accuracies"),
    "evaluation.draws": Field(10, at_least(1), "random draws of the labeled images, per entry of labels_per_class"),
    "evaluation.allow_overlap": Field(False, FLAG, "evaluate although the two splits share images"),
    "checkpoint.every_steps": Field(1000, at_least(1), "steps between checkpoints"),
    "checkpoint.every_minutes": Field(0.0, NOT_NEGATIVE, "maximum minutes between checkpoints; 0: no maximum"),
    "checkpoint.keep": Field(2, at_least(1), "checkpoints to keep, the newest ones"),
    "logging.every_steps": Field(50, at_least(1), "steps between logged steps"),
    "logging.tensorboard": Field(False, FLAG, "also write TensorBoard events"),
    "logging.wandb": Field(False, FLAG, "also log to Weights & Biases"),
    "logging.logger": Field(None, TEXT, "also log to another logger, as MODULE:NAME"),
    "logging.profile_steps": Field(
        (),
        Rule(
            tuple,
            "() or two steps in rising order, such as (10, 20)",
            lambda value: value == () or (len(value) == 2 and INTEGERS.accepts(value) and value[0] <= value[1]),
        ),
        "first and last step to profile; (): none",
    ),
}

# Fields of pretraining beside SHARED and the section `method`: the official optimizer and schedule of VICReg.
PRETRAIN: Table = {
    "data.decode_size": Field(None, at_least(1), "side of a decoded image where sizes vary; None: 3/2 of image_size"),
    "evaluation.name": Field(None, TEXT, "dataset of the evaluation; None: data.name"),
    "evaluation.manual_dir": Field(
        None, TEXT, "its files that you bring; None: data.manual_dir if it is the same dataset"
    ),
    "evaluation.labels_file": Field(
        None, TEXT, "labels of its folder; None: data.labels_file if it is the same folder"
    ),
    "evaluation.train_split": Field(None, TEXT, "split whose labels the classifiers learn; None: data.train_split"),
    "evaluation.test_split": Field(None, TEXT, "split that is evaluated on; None: data.test_split"),
    "evaluation.transfer": Field(
        (), TEXTS, "other datasets of the final evaluation, each NAME or NAME:PATH with its files that you bring"
    ),
    "evaluation.label_free_images": Field(
        1000, at_least(0), "training images of the metrics without labels, evenly spaced; 0: no such metrics"
    ),
    "evaluation.batch_size": Field(256, at_least(1), "images per batch of the evaluation"),
    "evaluation.every_epochs": Field(0, at_least(0), "epochs between kNN evaluations; 0: only after the last step"),
    "augment.recipe": Field("vicreg", TEXT, "augmentation recipe"),
    "augment.global_views": Field(None, at_least(1), "global views of each image; None: as many as the recipe has"),
    "augment.local_views": Field(None, at_least(0), "local views of each image; None: as many as the recipe has"),
    "augment.local_size": Field(None, at_least(1), "side of a local view, in pixels; None: the recipe's"),
    "augment.crop_area": Field(
        None, AREA, "area of the random crop of a global view, as fractions of the image; None: the recipe's"
    ),
    "augment.local_crop_area": Field(None, AREA, "the same of a local view; None: the recipe's"),
    "augment.flip_probability": Field(None, FRACTION, "probability of a horizontal flip; None: the recipe's"),
    "augment.jitter_probability": Field(None, FRACTION, "probability of color jitter; None: the recipe's"),
    "augment.grayscale_probability": Field(None, FRACTION, "probability of grayscale; None: the recipe's"),
    "augment.blur_probability": Field(None, FRACTION, "probability of Gaussian blur; None: the recipe's"),
    "augment.solarize_probability": Field(None, FRACTION, "probability of solarization; None: the recipe's"),
    "augment.mean": Field(
        (0.485, 0.456, 0.406),
        Rule(tuple, "one number, or one per channel", are_numbers),
        "mean of the pixels in [0, 1]",
    ),
    "augment.std": Field(
        (0.229, 0.224, 0.225),
        Rule(tuple, "one number above 0, or one per channel", lambda value: are_numbers(value, lambda x: x > 0)),
        "standard deviation of the pixels in [0, 1]",
    ),
    "augment.central_fraction": Field(
        1.0, POSITIVE_FRACTION, "side of the central crop of the evaluation, as a fraction of the shorter side"
    ),
    "model.name": Field("resnet50", TEXT, "backbone"),
    "model.width": Field(
        1.0, Rule(float, "a number above 0, at most 64", lambda value: 0 < value <= 64), "multiplies every width"
    ),
    "model.stem": Field(
        "imagenet", one_of("imagenet", "small"), "of a ResNet: first layers; small: for images under 64 pixels"
    ),
    "model.pooling": Field(
        "token", one_of("token", "mean"), "of a ViT: features of the class token, or the mean patch"
    ),
    "model.stochastic_depth": Field(0.0, BELOW_ONE, "of a ViT: probability that an image skips the last block"),
    "model.head_dims": Field((8192, 8192, 8192), INTEGERS, "widths of the expander or projector"),
    "model.predictor_dims": Field((), INTEGERS_OR_NONE, "widths of the predictor; (): no predictor"),
    "model.head_batch_norm": Field(
        None, FLAG, "BatchNorm in head and predictor; None: as in the method's official code"
    ),
    "model.shared": Field(
        ("backbone", "head"),
        Rule(
            tuple,
            "'backbone', 'head', both or neither, as a tuple",
            lambda value: len(set(value)) == len(value) and set(value) <= {"backbone", "head"},
        ),
        "parts that the two branches share",
    ),
    "model.second_name": Field(None, TEXT, "backbone of the second branch, where it is not shared; None: model.name"),
    "model.init_from": Field(
        None, TEXT, "weights that the backbone starts from: a .pth, .pt or .safetensors file, a run or an export"
    ),
    "model.init_head_from": Field(None, TEXT, "weights that the head starts from: such a file, or a run"),
    "model.init_digest": Field(None, TEXT, "SHA-256 of the weights in init_from; the run fills it in"),
    "model.init_head_digest": Field(None, TEXT, "SHA-256 of the weights in init_head_from; the run fills it in"),
    "optim.name": Field("lars", TEXT, "optimizer"),
    "optim.base_lr": Field(
        0.2,
        Rule(float, "a number above 0, at most 1e30", lambda value: 0 < value <= 1e30),
        "learning rate per 256 images: the peak is base_lr * batch_size / 256",
    ),
    "optim.weight_decay": Field(1e-6, NOT_NEGATIVE, "weight decay"),
    "optim.decay_biases": Field(False, FLAG, "also decay biases and BatchNorm"),
    "optim.bias_lr_factor": Field(1.0, POSITIVE, "multiplies the learning rate of biases and BatchNorm"),
    "optim.constant_predictor_lr": Field(False, FLAG, "keep the predictor at the peak learning rate"),
    "optim.momentum": Field(0.9, BELOW_ONE, "of LARS and SGD; of Adam the decay of the first moment"),
    "optim.trust_coefficient": Field(0.001, POSITIVE, "of LARS"),
    "optim.clip_trust_ratio": Field(False, FLAG, "of LARS: no update longer than SGD's"),
    "optim.lr_in_momentum": Field(False, FLAG, "of LARS: learning rate inside the momentum, as in SimCLR"),
    "optim.warmup_epochs": Field(10.0, NOT_NEGATIVE, "epochs of linear warmup"),
    "optim.schedule": Field(
        "cosine",
        one_of("cosine", "wsd", "drops"),
        "after the warmup; cosine: decay; wsd: constant, then a short decay; drops: constant between drop_epochs",
    ),
    "optim.decay_fraction": Field(0.2, POSITIVE_FRACTION, "of wsd: length of the decay, as a fraction of the run"),
    "optim.drop_epochs": Field(
        (),
        Rule(
            tuple,
            "epochs above 0 in rising order, as a tuple",
            lambda value: value == () or (are_numbers(value, lambda x: x > 0) and list(value) == sorted(set(value))),
        ),
        "of drops: epochs at which the learning rate drops to a tenth; (): never",
    ),
    "optim.final_lr_fraction": Field(0.001, FRACTION, "learning rate at the end of cosine or wsd, over the peak"),
    "train.batch_size": Field(2048, at_least(2), "global batch size"),
    "train.epochs": Field(100, at_least(1), "epochs"),
    "train.extend": Field(
        None, EXTEND, "extends the run in the workdir to more epochs; replan: by the schedule of the longer run"
    ),
    "train.extensions": Field((), EXTENSIONS, "extensions so far; the run fills it in"),
    "train.precision": Field(
        "bfloat16", one_of("float32", "bfloat16"), "of the networks; parameters, statistics and loss stay float32"
    ),
    "train.microbatch_size": Field(None, at_least(2), "images per pass through the networks; None: the whole batch"),
    "train.remat": Field(False, FLAG, "recompute activations in the backward pass, to save memory"),
    "train.on_nonfinite": Field(
        "stop", one_of("stop", "skip"), "on a non-finite loss or gradient: stop the run, or skip the update"
    ),
    "evaluate.encoder": Field(None, TEXT, "of task=evaluate: a run, an export, or a file of weights"),
    "embed.encoder": Field(
        None, TEXT, "of task=embed: a run, an export, or a file of weights; None: the run in --workdir"
    ),
    "embed.output": Field(None, TEXT, "of task=embed: an .npz or .parquet file; None: embeddings.npz in --workdir"),
    "embed.split": Field("all", TEXT, "of task=embed: all images, or a split such as test"),
    "export.encoder": Field(
        None, TEXT, "of task=export: a run, an export, or a file of weights; None: the run in --workdir"
    ),
    "export.format": Field(
        "vicreg_jax",
        one_of("vicreg_jax", "safetensors", "torchvision", "timm", "detectron2"),
        "of task=export: who loads it; safetensors: with torchvision's names",
    ),
    "export.output": Field(
        None,
        TEXT,
        "of task=export: a directory for vicreg_jax, else a file with the format's ending; None: export, or encoder "
        "with that ending, in --workdir",
    ),
}

# What fine-tuning and the linear protocol have in common: the official settings of VICReg's evaluation.
_OF_PRETRAINING = (
    *("data.decode_size", "evaluation.batch_size", "evaluation.every_epochs"),
    *(name for name in PRETRAIN if name.startswith("augment.")),
    *("model.name", "model.width", "model.stem", "model.pooling", "model.stochastic_depth"),
    *("model.init_from", "model.init_digest"),
    *("optim.name", "optim.weight_decay", "optim.decay_biases", "optim.momentum", "optim.trust_coefficient"),
    *("optim.warmup_epochs", "optim.schedule", "optim.decay_fraction", "optim.drop_epochs", "optim.final_lr_fraction"),
    *("train.batch_size", "train.epochs", "train.precision", "train.remat"),
)
_NOT_SUPERVISED = (
    "evaluation.knn_neighbors",
    "evaluation.knn_temperature",
    "evaluation.labels_per_class",
    "evaluation.draws",
)
_OFFICIAL = {
    "augment.recipe": "supervised",
    "optim.name": "sgd",
    "optim.decay_biases": True,
    "optim.warmup_epochs": 0.0,
    "optim.final_lr_fraction": 0.0,
    "train.batch_size": 256,
}


def _supervised(**changed: Any) -> Table:
    table = {name: field for name, field in SHARED.items() if name not in _NOT_SUPERVISED}
    table |= {name: PRETRAIN[name] for name in _OF_PRETRAINING}
    for name, default in (_OFFICIAL | changed).items():
        table[name] = dataclasses.replace(table[name], default=default)
    return table


FINETUNE: Table = {
    **_supervised(**{"optim.weight_decay": 0.0, "train.epochs": 20}),
    "method.name": Field("finetune", one_of("finetune"), "the task"),
    "finetune.labels": Field(
        "all", TEXT, "training images to use: all, such as '10%' or '5 per class', or a file of image names"
    ),
    "optim.base_lr": dataclasses.replace(
        PRETRAIN["optim.base_lr"],
        default=0.01,
        help="learning rate of the backbone per 256 images: the peak is base_lr * batch_size / 256",
    ),
    "finetune.head_lr": Field(0.1, POSITIVE, "learning rate of the classifier, per 256 images"),
    "finetune.from_scratch_lr": Field(
        None,
        POSITIVE,
        "per 256 images, of a second network, trained from random initialization; None: no such baseline",
    ),
}

LINEAR: Table = {
    **_supervised(**{"optim.weight_decay": 1e-6, "train.epochs": 100}),
    "method.name": Field("linear", one_of("linear"), "the task"),
    "linear.learning_rates": Field(
        (0.02,),
        Rule(tuple, "one or more numbers above 0, as a tuple", lambda value: are_numbers(value, lambda x: x > 0)),
        "learning rates per 256 images, one classifier each",
    ),
    "linear.validation_fraction": Field(
        0.0, BELOW_ONE, "part of the training images that is held out, to choose the learning rate on"
    ),
    "linear.baselines": Field(
        True, FLAG, "also train classifiers on a random backbone, and on pixels of images up to 32 pixels"
    ),
}
