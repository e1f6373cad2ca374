"""Options that several commands share, and the values made of them; settings.py has the defaults."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from amc_tf.errors import BudgetError, DataError, SettingsError
from amc_tf.reward import find_reward, needs_latency
from amc_tf.settings import (
    LATENCY_PRECISIONS,
    LEARNING_RATES,
    MIN_KEEP_RATIO_DENSE,
    PRESETS,
    FinetuneSettings,
    SearchSettings,
    quantization_settings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from amc_tf.budget import Budget
    from amc_tf.data import ImageData
    from amc_tf.executor import MakeExecutor

SEARCH = PRESETS["default"]
FINETUNE = FinetuneSettings()
_SEED = ("seed", "--seed", "seed of every random draw")
_WIDTHS = (
    ("round_to", "--round-to", "widths are multiples of this"),
    ("min_keep_ratio", "--min-keep-ratio", "smallest part of a layer's channels that stays"),
)
_SEARCHING = (
    ("episodes", "--episodes", "episodes of the search"),
    _SEED,
    ("reward", "--reward", "error, macs, parameters, latency, soft_latency, or your own as module:function"),
    (
        "accuracy_metric",
        "--accuracy-metric",
        "accuracy in the reward: top1, top5, probability or fidelity",
    ),
    ("num_search_images", "--search-images", "images behind the accuracy in the reward"),
    ("num_finalists", "--finalists", "best networks of the search, which are recovered longer to choose"),
    ("checkpoint_every", "--checkpoint-every", "episodes between two checkpoints"),
    (
        "max_dropped_in_a_row",
        "--max-dropped",
        "stop after so many networks in a row that could not be scored",
    ),
)
BUDGET_HELP = (
    "macs, params, bytes or latency; a ratio of the original (latency=0.5) or absolute (macs=285M, "
    "latency=8ms); or accuracy=0.99 for the cheapest network that keeps that part of the accuracy"
)
# The paper explores for a quarter of its 400 episodes; a shorter search keeps that proportion.
_WARMUP_SHARE = 4


def add_action(actions: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """Adds an action of a verb; what every verb takes may stand behind the action too.

    Args:
        actions: What `ArgumentParser.add_subparsers` returned.
        name: What the user writes behind the verb.
        summary: One line of help.
    """
    parser: argparse.ArgumentParser = actions.add_parser(
        name, help=summary, description=summary, allow_abbrev=False
    )
    parser.set_defaults(usage_error=parser.error)
    for option in ("--json", "--debug", "--quiet"):
        parser.add_argument(
            option, action="store_true", default=argparse.SUPPRESS, help="as of every command"
        )
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the model."""
    parser.add_argument(
        "model", metavar="MODEL", help="a .keras or .h5 file, or a shipped network: `demo` or `plain20`"
    )


def add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds where images come from and how they are scaled."""
    parser.add_argument(
        "--data",
        metavar="DATA",
        required=required,
        help="digits, cifar10, cifar100, a folder of class folders, an .npz file, or module:function",
    )
    add_input_range(parser)


def add_input_range(parser: argparse.ArgumentParser) -> None:
    """Adds how images are scaled for the model."""
    parser.add_argument(
        "--input-range",
        default="-1..1",
        metavar="RANGE",
        help="pixel values that the model takes: -1..1, 0..1, 0..255 or imagenet (default: %(default)s)",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Adds the seed of commands that do not search."""
    _add_settings(parser, SEARCH, [_SEED])


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Adds the number of threads of one inference."""
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="threads of one inference (default: %(default)s)"
    )


def add_recovery(parser: argparse.ArgumentParser) -> None:
    """Adds what makes up for removed channels without training."""
    _add_switch(parser, "--reconstruct", "reconstruct", "re-fit the kept weights by least squares")
    _add_batch_norm(parser)
    _add_settings(parser, SEARCH, [("num_calibration_images", "--calibration-images", "images for both")])


def _add_batch_norm(parser: argparse.ArgumentParser) -> None:
    _add_switch(parser, "--batch-norm", "reestimate_batch_norm", "estimate the batch-norm statistics again")


def _add_switch(parser: argparse.ArgumentParser, option: str, name: str, what: str) -> None:
    parser.add_argument(
        option,
        dest=name,
        action=argparse.BooleanOptionalAction,
        default=getattr(SEARCH, name),
        help=f"{what} (default: yes)",
    )


def add_budget(parser: argparse.ArgumentParser, *, budget: str | None = None) -> None:
    """Adds the budget, which must be given unless it has a default."""
    parser.add_argument(
        "--budget", metavar="KIND=VALUE", required=budget is None, default=budget, help=BUDGET_HELP
    )


def add_search(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of a search; the budget is added apart."""
    parser.add_argument(
        "--preset",
        action=_Preset,
        choices=PRESETS,
        default="default",
        help="what the other settings of the search start from; paper is the search of AMC (default: "
        "%(default)s)",
    )
    _add_warmup(parser)
    importance = (
        "importance",
        "--importance",
        "what decides which channels stay; your own as module:function",
    )
    _add_settings(parser, SEARCH, [*_SEARCHING, importance, *_WIDTHS])
    add_int8(parser)
    add_recovery(parser)
    in_order = "images on which each candidate is re-fitted in network order; 0: in one go, from moments"
    _add_settings(parser, SEARCH, [("num_in_order_images", "--in-order-images", in_order)])


def add_sparse_search(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of a search for a sparsity plan."""
    _add_warmup(parser)
    _add_settings(
        parser,
        SEARCH,
        [
            *_SEARCHING,
            ("min_keep_ratio", "--min-keep-ratio", "smallest part of a convolution's weights that stays"),
        ],
    )
    parser.add_argument(
        "--min-keep-ratio-dense",
        type=float,
        default=MIN_KEEP_RATIO_DENSE,
        metavar="X",
        help="smallest part of a Dense layer's weights that stays (default: %(default)s)",
    )
    _add_batch_norm(parser)
    _add_settings(parser, SEARCH, [("num_calibration_images", "--calibration-images", "images for that")])


class _Preset(argparse.Action):
    """Makes the settings of a preset the defaults of its parser, which holds from the next parsing on."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        fields = [field.name for field in dataclasses.fields(SearchSettings)]
        differing = [
            name
            for name in fields
            if any(getattr(preset, name) != getattr(SEARCH, name) for preset in PRESETS.values())
        ]
        parser.set_defaults(**{name: getattr(PRESETS[values], name) for name in differing})
        setattr(namespace, self.dest, values)


def _add_warmup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--warmup-episodes",
        type=int,
        metavar="N",
        help=f"episodes of random actions (default: {SEARCH.warmup_episodes}, at most a quarter of all)",
    )


def add_int8(parser: argparse.ArgumentParser) -> None:
    """Adds what of a search is about int8 networks."""
    parser.add_argument(
        "--latency-precision",
        choices=LATENCY_PRECISIONS,
        default=SEARCH.latency_precision,
        help="what networks of the search are timed as, beside the original in the same precision; a latency "
        "budget is one on that time (default: %(default)s)",
    )
    parser.add_argument(
        "--int8-accuracy",
        action="store_true",
        help="put the accuracy of each network as int8 TFLite into the reward",
    )


def add_widths(parser: argparse.ArgumentParser) -> None:
    """Adds the widths that a search may choose from, for commands that do not search."""
    _add_settings(parser, SEARCH, _WIDTHS)


def add_uniform_budget(parser: argparse.ArgumentParser) -> None:
    """Adds a budget without a search, and the widths that it may choose from."""
    parser.add_argument(
        "--budget", metavar="KIND=VALUE", help="show the uniform plan of macs, params or bytes=VALUE too"
    )
    _add_settings(parser, SEARCH, _WIDTHS)


def add_finetune(parser: argparse.ArgumentParser, *, prefix: str = "finetune-") -> None:
    """Adds the settings of fine-tuning."""
    _add_settings(
        parser,
        FINETUNE,
        [
            ("epochs", f"--{prefix}epochs", "epochs of fine-tuning, 0 for none"),
            ("optimizer", f"--{prefix}optimizer", "adam or sgd"),
            ("batch_size", f"--{prefix}batch-size", "images per training step"),
            ("distillation_weight", "--distillation-weight", "part of the loss that imitates the original"),
            (
                "feature_weight",
                "--feature-weight",
                "weight of imitating the original's hidden outputs",
            ),
        ],
        dest_prefix="finetune_",
    )
    parser.add_argument(
        "--freeze-batch-norm",
        dest="finetune_freeze_batch_norm",
        action="store_true",
        help="fine-tune with the moving statistics of batch normalization, and without Dropout",
    )
    parser.add_argument(
        "--unlabelled",
        metavar="IMAGES",
        help="more images to imitate the original on, without labels: a folder, or an .npz file with images",
    )
    rates = ", ".join(f"{rate:g} with {optimizer}" for optimizer, rate in LEARNING_RATES.items())
    parser.add_argument(
        f"--{prefix}learning-rate",
        dest="finetune_learning_rate",
        type=float,
        metavar="X",
        help=f"highest learning rate of fine-tuning (default: {rates})",
    )


def add_stages(parser: argparse.ArgumentParser) -> None:
    """Adds the number of stages."""
    parser.add_argument(
        "--stages",
        type=int,
        default=1,
        metavar="N",
        help="search and fine-tune N times, each time within a smaller budget; --episodes and "
        "--finetune-epochs are those of each stage (default: %(default)s)",
    )


def add_quantization(parser: argparse.ArgumentParser) -> None:
    """Adds the settings of quantisation-aware training."""
    _add_settings(
        parser,
        quantization_settings(0),
        [
            (
                "epochs",
                "--qat-epochs",
                "epochs of quantisation-aware training of the int8 network, 0 for none",
            ),
            ("learning_rate", "--qat-learning-rate", "highest learning rate of that training"),
        ],
        dest_prefix="qat_",
    )


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Adds where the candidates of a search run."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="evaluate each candidate of the search on all processors of a Ray cluster: HOST:PORT of its "
        "head, auto on a node of it, or local for one on this machine",
    )


@contextlib.contextmanager
def evaluation(args: argparse.Namespace) -> Iterator[MakeExecutor | None]:
    """Connects to the cluster that the option of `add_ray` names, and yields what runs candidates there.

    Raises:
        ClusterError: There is no Ray or no such cluster.
    """
    if args.ray is None:
        yield None
        return
    from amc_tf.ray_evaluation import RayEvaluation

    with RayEvaluation(args.ray) as found:
        yield found


def add_run_folder(parser: argparse.ArgumentParser, *, out: str | None = None) -> None:
    """Adds the run folder, which must be given unless it has a default, and what becomes of an old one."""
    parser.add_argument(
        "--out", metavar="FOLDER", required=out is None, default=out, help="run folder to fill"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    choice.add_argument("--overwrite", action="store_true", help="delete an earlier run in that folder")


def add_output_file(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds the file to write."""
    parser.add_argument("--out", metavar="FILE", required=True, help=what)
    parser.add_argument("--overwrite", action="store_true", help="replace that file if it exists")


def search_settings(args: argparse.Namespace) -> SearchSettings:
    """Returns the settings of a search.

    Raises:
        SettingsError: A value is outside its range, or there is no such reward or importance.
    """
    names = {field.name for field in dataclasses.fields(SearchSettings)}
    values = {name: value for name, value in vars(args).items() if name in names}
    if values.get("warmup_episodes") is None:
        values["warmup_episodes"] = min(SEARCH.warmup_episodes, max(args.episodes, 0) // _WARMUP_SHARE)
    settings = SearchSettings(**values)
    find_reward(settings.reward)
    from amc_tf.importance import find_importance

    find_importance(settings.importance)
    return settings


def finetune_settings(args: argparse.Namespace) -> FinetuneSettings:
    """Returns the settings of fine-tuning.

    Raises:
        SettingsError: A value is outside its range.
    """
    prefix = "finetune_"
    names = {field.name for field in dataclasses.fields(FinetuneSettings)}
    given = {
        name.removeprefix(prefix): value for name, value in vars(args).items() if name.startswith(prefix)
    }
    return FinetuneSettings(seed=args.seed, **{name: given[name] for name in given if name in names})


def qat_settings(args: argparse.Namespace) -> FinetuneSettings | None:
    """Returns the settings of quantisation-aware training, None where no epochs of it were asked for.

    Raises:
        SettingsError: A value is outside its range.
    """
    settings = quantization_settings(
        args.qat_epochs, learning_rate=args.qat_learning_rate, seed=getattr(args, "seed", 0)
    )
    return settings if settings.epochs else None


def search_budget(args: argparse.Namespace, settings: SearchSettings, *, has_meter: bool) -> Budget:
    """Returns the budget of a search.

    Raises:
        BudgetError: The budget is malformed, or needs a meter.
        SettingsError: The reward needs a meter.
    """
    from amc_tf.budget import Budget

    budget = Budget.parse(args.budget)
    if not has_meter and budget.kind == "latency":
        raise BudgetError(
            f"The budget {budget} is measured time: give --meter phone, host or table:FILE, or a budget of "
            "macs."
        )
    if not has_meter and needs_latency(settings.reward):
        raise SettingsError(
            f"The reward {settings.reward} is about measured time: give --meter phone, host or table:FILE."
        )
    if settings.latency_precision != "float32":
        _check_int8_latency(args, has_meter=has_meter)
    return budget


def _check_int8_latency(args: argparse.Namespace, *, has_meter: bool) -> None:
    precision = f"--latency-precision {args.latency_precision}"
    if not has_meter:
        raise SettingsError(f"{precision} is about measured time: give --meter phone or host.")
    if args.table or (args.meter or "").startswith("table:"):
        raise SettingsError(
            f"{precision} needs networks that are timed, but a latency table predicts float32 networks: give "
            "--meter phone or host, without a table."
        )


def load_images(model: Any, args: argparse.Namespace) -> tuple[ImageData, ImageData]:
    """Loads training and validation images in the size that a model takes.

    Raises:
        DataError: The data cannot be read or does not fit the model.
        SettingsError: There is no such input range.
    """
    from amc_tf.data import INPUT_RANGES, check_data_fits, load_data
    from amc_tf.model_file import image_size_of

    if args.input_range not in INPUT_RANGES:
        known = ", ".join(INPUT_RANGES)
        raise SettingsError(f"There is no input range {args.input_range!r}; choose one of {known}.")
    image_size = image_size_of(model)
    train, validation = load_data(args.data, image_size, seed=getattr(args, "seed", 0))
    for data in (train, validation):
        check_data_fits(image_size, _num_outputs(model), data)
    return train, validation


def load_unlabelled(model: Any, args: argparse.Namespace) -> NDArray[Any] | None:
    """Loads the images without labels in the size that a model takes, None where none were given.

    Raises:
        DataError: They cannot be read.
    """
    if args.unlabelled is None:
        return None
    from amc_tf import data
    from amc_tf.model_file import image_size_of

    return data.load_unlabelled(args.unlabelled, image_size_of(model))


def top1(model: Any, data: ImageData, args: argparse.Namespace) -> float:
    """Returns the top-1 accuracy of a model, in [0, 1]."""
    from amc_tf.evaluate import accuracy

    # Called by itself a model keeps every activation of a batch: 5 GB for 64 images of MobileNet-V2.
    return accuracy(model.predict_on_batch, data, input_range=args.input_range).top1


def _num_outputs(model: Any) -> int:
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise DataError(f"'{model.name}' returns {shape}, but a classifier returns scores per image.")
    return int(shape[-1])


def _add_settings(
    parser: argparse.ArgumentParser,
    settings: SearchSettings | FinetuneSettings,
    options: Sequence[tuple[str, str, str]],
    *,
    dest_prefix: str = "",
) -> None:
    """Adds an option for each (field, option, help), of the type and with the default of the field."""
    for name, option, what in options:
        default = getattr(settings, name)
        parser.add_argument(
            option,
            dest=dest_prefix + name,
            type=type(default),
            default=default,
            metavar={int: "N", float: "X", str: "NAME"}[type(default)],
            help=f"{what} (default: %(default)s)",
        )
