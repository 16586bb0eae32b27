"""`fit`, `validate`, `test` and `predict`: LightningCLI over the components, the zoo and the DataModules."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonargparse
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cmd_lightning import zoo
from cmd_lightning.callbacks import LastCheckpoint
from cmd_lightning.callbacks.stage_progress import StageProgress, count, stage_name
from cmd_lightning.commands.class_paths import check_class_paths, known_classes
from cmd_lightning.commands.config_errors import explain, place_of, raised_in
from cmd_lightning.commands.next_steps import next_commands
from cmd_lightning.commands.processes import interruptible
from cmd_lightning.compat import TREESPEC, NoOptionsFromCheckpoint, optional_save_dir, without_tips, worker_died
from cmd_lightning.components import checkpoints
from cmd_lightning.errors import InputError, reason
from cmd_lightning.progress import notify


class CMDCLI(NoOptionsFromCheckpoint, LightningCLI):
    """LightningCLI that calls only classes, reads checkpoints as plain data, and writes predictions to files."""

    @optional_save_dir()
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Sets defaults for all configs."""
        parser.set_defaults({"seed_everything": 0, "trainer.enable_model_summary": False})

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses `args` instead of the command line of the process."""
        self.words: list[str] = list(args or [])
        self.config = parser.parse_args(args)  # type: ignore[arg-type]  # a list, from `run`
        check_class_paths(self.config)
        verb = self.config.get("subcommand")
        checkpoint = self.config[verb].get("ckpt_path") if verb else None
        if checkpoint not in (None, "best", "last", "hpc"):
            checkpoints.read(checkpoint, "ckpt_path", "give one that `fit` wrote")

    def instantiate_classes(self) -> None:
        """Sets the Trainer's folder for loggers without one; the saved config does not contain it."""
        self.given = self.config
        self.config = self.config.clone()
        trainer = self._get(self.config, "trainer")
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for logger in loggers:
            arguments = logger.get("init_args", {}) if isinstance(logger, jsonargparse.Namespace) else {}
            if "save_dir" in arguments and arguments["save_dir"] is None:
                arguments["save_dir"] = trainer.default_root_dir or "."
        super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer, with our progress bar, and the config as given, for the callback that saves it."""
        self.config = self.given
        options = self._get(self.config_init, "trainer")
        given = options.callbacks if isinstance(options.callbacks, list) else [options.callbacks]
        self.validated = Validated()
        added: list[Callback] = [self.validated]
        if options.enable_progress_bar is not False and not any(isinstance(made, ProgressBar) for made in given):
            added.append(StageProgress())
        callbacks = [made for made in given if made is not None] + added
        try:
            return super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except (MisconfigurationException, TypeError, ValueError, ModuleNotFoundError) as error:
            if isinstance(error, InputError):
                raise
            raise trainer_error(options, error) from error

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks of the Trainer."""
        return self.trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it from elsewhere

    @property
    def last_checkpoint(self) -> Path | None:
        """The file of the config's `LastCheckpoint`."""
        found = (callback for callback in self.callbacks if isinstance(callback, LastCheckpoint))
        return next((callback.path(self.trainer) for callback in found), None)

    def before_fit(self) -> None:
        """Adds a callback, if needed, so that interrupted training writes a checkpoint."""
        fast = self.trainer.fast_dev_run  # type: ignore[attr-defined]  # Lightning sets it from elsewhere
        wanted = self.config.fit.trainer.enable_checkpointing is not False and not fast
        if wanted and self.last_checkpoint is None:
            self.callbacks.append(LastCheckpoint())

    def before_test(self) -> None:
        """Rejects a model that generates no videos to evaluate."""
        self.check_offers("test_step")

    def before_predict(self) -> None:
        """Rejects a model that generates no videos."""
        self.check_offers("predict_step", "forward")

    def check_offers(self, *methods: str) -> None:
        """Raises an InputError unless the model overrides one of the methods of `LightningModule`."""
        if all(getattr(type(self.model), name) is getattr(LightningModule, name) for name in methods):
            raise InputError(
                "model: test and predict need a model that generates videos: VideoDiffusion, or class CMD, the three "
                "stages together, as in configs/.../cmd.yaml; for a single stage use `validate`"
            )

    def fit(self, **kwargs: Any) -> None:
        """Trains, from `ckpt_path` if it is given; `last` starts a new run if there is no last checkpoint yet."""
        kwargs = self.resolve_last(kwargs, needed=False)
        self.trainer.fit(**kwargs, weights_only=True)
        fast = self.trainer.fast_dev_run  # type: ignore[attr-defined]  # Lightning sets it from elsewhere
        if not fast:
            self.finish()

    def finish(self) -> None:
        """Ends training: validates the final weights, and reports the checkpoint and the commands to run next."""
        trainer, step = self.trainer, self.trainer.global_step
        if not step:
            raise InputError("trainer: no step was trained; give more time, or more clips than the batch size")
        whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)  # others cannot be set up twice
        if self.validated.step != step and whole and count(trainer.num_val_batches):
            trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        losses = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if "loss_at" not in name)
        log_dir = trainer.log_dir  # on every process: it is broadcast
        if not trainer.is_global_zero:
            return
        last = self.last_checkpoint
        tell(f"{last or trainer.default_root_dir} after step {step}{': ' * bool(losses)}{losses}")
        if images := list(Path(log_dir or ".", "videos").glob(f"*-step{step}.gif")):
            tell(f"images: {images[0]}")
        if last is not None:
            for command in next_commands(self.model, self.words, last):
                tell(f"next: {command}")

    def validate(self, **kwargs: Any) -> None:
        """One pass over the validation data."""
        self.trainer.validate(**self.resolve_last(kwargs), weights_only=True)

    def test(self, **kwargs: Any) -> None:
        """Evaluates on the test data."""
        self.trainer.test(**self.resolve_last(kwargs), weights_only=True)

    def predict(self, **kwargs: Any) -> None:
        """Generates videos for the test data; the `VideoWriter` callback writes them."""
        self.trainer.predict(**self.resolve_last(kwargs) | {"return_predictions": False}, weights_only=True)

    def resolve_last(self, kwargs: dict[str, Any], needed: bool = True) -> dict[str, Any]:
        """Arguments of a verb; replaces `ckpt_path: last` by the file of `LastCheckpoint`, or None if not `needed`."""
        last = self.last_checkpoint
        if kwargs.get("ckpt_path") != "last" or last is None:
            return kwargs
        if not needed and not last.exists():
            tell(f"--ckpt_path last: there is no {last} yet; training begins at step 0")
            return kwargs | {"ckpt_path": None}
        checkpoints.read(
            last, "--ckpt_path last", "give another checkpoint, or `fit` with this one removed to start from scratch"
        )
        return kwargs | {"ckpt_path": str(last)}

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The verbs, and the arguments of the Trainer's methods that are not options here."""
        fixed = {"weights_only", "return_predictions"}
        return {verb: skipped | fixed for verb, skipped in LightningCLI.subcommands().items()}


class Validated(Callback):
    """Reports the start of training, and records the step of the last validation."""

    step: int | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports stage, trainable parameters and run folder."""
        weights = sum(weight.numel() for weight in pl_module.parameters() if weight.requires_grad)
        tell(f"fit {stage_name(pl_module)}: {weights:,} trainable parameters, run folder {trainer.default_root_dir}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Records the step, unless it was only the check before training."""
        if not trainer.sanity_checking:
            self.step = trainer.global_step


tell = rank_zero_only(notify)
"""Prints a line for the user, on the first process only."""


def trainer_error(options: jsonargparse.Namespace, error: Exception) -> InputError:
    """An error of Lightning about options of the Trainer, with the names of these options."""
    text = " ".join(str(error).split())
    named = {name: value for name, value in vars(options).items() if isinstance(value, str | int) and value != ""}
    culprits = [
        f"trainer.{name} {value}"
        for name, value in named.items()
        if value not in (True, False, "auto")
        and (f"`{name}`" in text or re.search(rf"(?<![\w.-]){re.escape(str(value))}(?![\w-])", text))
    ]
    if not culprits and options.accelerator != "auto":
        culprits = [f"trainer.accelerator {options.accelerator}"]
    hint = "; give cpu, or auto for the available hardware" if "accelerator" in str(culprits) else ""
    return InputError(f"{', '.join(culprits) or 'trainer'}: {reason(error).rstrip('!.')}{hint}")


def run(arguments: Sequence[str]) -> None:
    """Runs LightningCLI on the command line `fit|validate|test|predict ...`."""
    zoo.import_all()
    with warnings.catch_warnings(), without_tips(), interruptible():
        warnings.filterwarnings("ignore", message=TREESPEC)
        run_cli(arguments)


def run_cli(arguments: Sequence[str]) -> None:
    """As `run`, but with all warnings; turns mistakes of the user into an `InputError`."""
    strict = {"exit_on_error": False, "allow_abbrev": False}
    try:
        CMDCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            parser_kwargs=dict.fromkeys(CMDCLI.subcommands(), strict) | strict,
            args=list(arguments),
        )
    except RuntimeError as error:
        if not worker_died(error):
            raise
        raise InputError(
            f"data.num_workers: {reason(error)}; its messages, if any, are above: fix the cause, or if memory ran out "
            "lower data.num_workers or data.batch_size; then resume with --ckpt_path last"
        ) from error
    except MisconfigurationException as error:
        raise InputError(" ".join(str(error).split())) from error
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        cause: BaseException | None = error  # jsonargparse wraps errors of constructors
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if cause is not None:
            raise InputError(str(cause)) from error
        if missing := missing_package(error):
            owner = re.findall(r"given class_path '([\w.]+)'", str(error))
            place = place_of(" ".join(str(error).split())) or "trainer.logger"
            raise InputError(f"{place} {owner[-1].rpartition('.')[2] if owner else ''}: {reason(missing)}") from error
        if isinstance(error, jsonargparse.ArgumentError):
            raise InputError(explain(str(error), known_classes())) from error
        if raised_in(error, "lightning"):  # about options of the Trainer that depend on the data
            raise InputError(" ".join(str(error).split())) from error
        raise


def missing_package(error: BaseException | None) -> ModuleNotFoundError | None:
    """The import error that caused another error, such as for a logger whose library is not installed."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__ or error.__context__
    return error
