"""The brief recipe as Lightning runs it: the module, and a trainer with all extras off. Importing this imports Lightning."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from nas.train.augment import derive_seed
from nas.train.data import Batch, DataBundle
from nas.train.recipe import TrainingDiverged, learning_rate, make_optimizer
from nas.train.settings import NumericFormat, TrainSettings
from nas.train.stepping import Steps, own_stream

# Lightning's bookkeeping costs 0.3 to 1 ms for every batch that it sees, which a small network's step on a GPU cannot
# hide; so it sees a stretch of this many steps as one batch, and `training_step` walks through it.
_STRETCH = 32


class BriefModule(pl.LightningModule):
    """A model and its brief recipe.

    Attributes:
        train_loss: Mean smoothed loss of each finished epoch, those before a resumption included.
        epoch_seconds: Time that the epochs of this run took, the device's work included.
        images: Images that this run has trained on.
    """

    def __init__(
        self,
        model: nn.Module,
        bundle: DataBundle,
        settings: TrainSettings,
        numeric: NumericFormat,
        seed: int,
        on_epoch: Callable[[int], None],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.optimizer = make_optimizer(model, settings)
        self.train_loss: list[float] = []
        self.epoch_seconds = 0.0
        self.images = 0
        self._bundle, self._settings, self._seed, self._on_epoch = bundle, settings, seed, on_epoch
        self._steps = len(bundle.train_batches(settings.batch_size, 0, seed))
        self._stepping = Steps(model, self.optimizer, settings, numeric, bundle.device, recorded=bundle.device.type == "cuda")
        self._started = 0.0

    @property
    def epoch(self) -> int:
        """The epoch under way, counted from 0 over all runs."""
        return len(self.train_loss)

    def configure_optimizers(self) -> torch.optim.SGD:
        """Return the optimiser, which may already hold a resumed state."""
        return self.optimizer

    def train_dataloader(self) -> _Stretches:
        """Return the loader; it yields whichever epoch is under way."""
        return _Stretches(self._batches, self._steps)

    def on_train_epoch_start(self) -> None:
        """Make what the model draws in this epoch (dropout) depend on the seed and the epoch alone."""
        self._started = time.perf_counter()
        torch.manual_seed(derive_seed(self._seed, "model", self.epoch))
        self._stepping.loss_sum.zero_()

    def training_step(self, stretch: Iterator[Batch], batch_idx: int) -> None:
        """Take the steps of one stretch."""
        total = self._steps * self._settings.epochs
        first = self.epoch * self._steps + batch_idx * _STRETCH
        for step, (x, y) in enumerate(stretch, start=first):
            self._stepping.take(x, y, learning_rate(step, total, self._settings))
            self.images += len(y)

    def on_train_epoch_end(self) -> None:
        """Look at the loss: the one point of an epoch that waits for the device.

        Raises:
            TrainingDiverged: If it is not finite.
        """
        loss = self._stepping.loss_sum.item() / self._steps
        self.epoch_seconds += time.perf_counter() - self._started
        if not math.isfinite(loss):
            raise TrainingDiverged(self.epoch)
        self.train_loss.append(loss)
        self._on_epoch(self.epoch)

    def close(self) -> None:
        """Give back what the steps of this run hold."""
        self._stepping.close()

    def _batches(self) -> Iterator[Batch]:
        return iter(self._bundle.train_batches(self._settings.batch_size, self.epoch, self._seed))


class _Stretches:
    """An epoch, ``_STRETCH`` steps at a time; each stretch must be walked through before the next is asked for."""

    def __init__(self, batches: Callable[[], Iterator[Batch]], steps: int) -> None:
        self._make, self._steps = batches, steps

    def __len__(self) -> int:
        return -(-self._steps // _STRETCH)

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        batches = self._make()
        for _ in range(len(self)):
            yield islice(batches, _STRETCH)


class _Here(SingleDeviceStrategy):
    """One device, on which model and optimiser stay: Lightning's own teardown moves them to the CPU."""

    def teardown(self) -> None:
        self.precision_plugin.teardown()


class _Cuda(CUDAAccelerator):
    """A GPU as it is: Lightning's own would set CUDA_DEVICE_ORDER for all later processes and empty torch's cache twice."""

    def setup(self, trainer: pl.Trainer) -> None:
        pass

    def teardown(self) -> None:
        pass


def run_epochs(module: BriefModule, epochs: int, device: torch.device) -> None:
    """Train ``module`` for so many further epochs on ``device``, quietly.

    Raises:
        TrainingDiverged: If the loss is not finite.
        torch.OutOfMemoryError: As it comes; so does anything that a signal handler raises, except that Lightning turns
            ``KeyboardInterrupt`` into ``SystemExit``.
    """
    accelerator: Accelerator = _Cuda() if device.type == "cuda" else CPUAccelerator()
    with quiet():
        trainer = pl.Trainer(
            barebones=True,
            max_epochs=epochs,
            limit_val_batches=0,
            strategy=_Here(device, accelerator=accelerator),
            devices=1 if device.type == "cpu" else [device.index],
            # Named, so that a SLURM job or an MPI launch around the search is not taken for distributed training.
            plugins=[LightningEnvironment()],
            use_distributed_sampler=False,
        )
        with own_stream(device):
            try:
                trainer.fit(module)
            finally:
                module.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's banners for this block; other libraries' logs and all other warnings pass."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", message=".*treespec.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
        warnings.filterwarnings("ignore", message="The dirpath has changed from")
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
