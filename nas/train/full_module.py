"""The full recipe as Lightning runs it, on one device or several. Importing this imports Lightning."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from nas.errors import InputError
from nas.failures import is_out_of_memory
from nas.train.augment import derive_seed
from nas.train.data import Batch, DataBundle, DataRequest, TrainBatches, indexed, load_bundle
from nas.train.ema import MovingAverage
from nas.train.full import Hold, Part, full_learning_rate
from nas.train.mixing import augmented, mixed_loss
from nas.train.module import quiet
from nas.train.recipe import MEMORY_FORMATS, TrainingDiverged, make_optimizer, set_ieee_fp32
from nas.train.settings import FullSettings, NumericFormat

if multiprocessing.parent_process() is not None:  # one of several that train together: what they say, the first one says
    for _name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(_name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*treespec.*")
    warnings.filterwarnings("ignore", message="(?s).*bucket_view.*")  # a matter of speed, of weights with one input channel

_KEPT = 2
_WAY_SECONDS = 60.0
"""How long who waits to measure has to wait at least: a full training's epoch may take longer than they can."""
"""Checkpoints: should the machine stop while one is being written, there is the one before it."""


class FullModule(pl.LightningModule):
    """A network, its moving average and the full recipe."""

    def __init__(
        self,
        model: nn.Module,
        request: DataRequest,
        settings: FullSettings,
        numeric: NumericFormat,
        seed: int,
        on: Part,
        identity: Mapping[str, Any],
        on_epoch: Callable[[int, int, float], None] | None,
        hold: Hold | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.ema = MovingAverage(model, settings.ema_decay) if settings.ema_decay else None
        self._request, self._settings, self._numeric, self._seed, self._on = request, settings, numeric, seed, on
        self._told: dict[str, Any] = {"identity": json.dumps(identity), "epochs": 0}
        self._told |= {"train_loss": [], "learning_rates": [], "epoch_seconds": []}
        self._on_epoch, self._hold = on_epoch, hold
        self._bundle: DataBundle | None = None
        self._loss_sum: Tensor | None = None
        self._began = 0.0
        self._gave_way = time.perf_counter()

    def setup(self, stage: str) -> None:
        """Load the data onto this process's device."""
        device = self.trainer.strategy.root_device
        if self.trainer.world_size > 1:
            # A process of its own, with which both end.
            set_ieee_fp32()
            if self._hold is not None and self.trainer.global_rank == 0:
                self._hold.__enter__()
            if device.type == "cpu":
                torch.set_num_threads(max(1, torch.get_num_threads() // self.trainer.world_size))
        self._bundle = load_bundle(self._request, indexed(device))

    @property
    def epoch(self) -> int:
        """The epoch under way, counted from 0; Lightning's own count lags where a resumed training asks for its batches."""
        return int(self._told["epochs"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser; its learning rate is set anew at every step."""
        return make_optimizer(self.model, self._settings)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Scale the gradients down to the largest norm. Lightning's own way refuses every fused optimiser in bf16."""
        if gradient_clip_val is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), gradient_clip_val)

    def batches(self, epoch: int) -> TrainBatches:
        """Return this process's share of an epoch."""
        assert self._bundle is not None and self._settings.batch_size is not None
        take = self._bundle.all_batches if self._on == "train+validation" else self._bundle.train_batches
        return take(self._settings.batch_size, epoch, self._seed, self.trainer.global_rank, self.trainer.world_size)

    def train_dataloader(self) -> _Epochs:
        """Return the loader; it yields whichever epoch is under way."""
        return _Epochs(self)

    def on_train_epoch_start(self) -> None:
        """Make what the model draws in this epoch (dropout) depend on the seed, the epoch and the process alone."""
        if self.epoch:
            self._give_way()  # here the checkpoint of the epoch before is written
        self._began = time.perf_counter()
        torch.manual_seed(derive_seed(self._seed, "model", self.epoch, self.trainer.global_rank))
        self._loss_sum = torch.zeros((), device=self.device)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return one step's loss."""
        step = self.trainer.global_step
        rate = full_learning_rate(step, int(self.trainer.num_training_batches) * self._settings.epochs, self._settings)
        optimizer = self.trainer.optimizers[0]
        for group in optimizer.param_groups:
            group["lr"] = rate
        x, y = batch
        # In the images' own precision: autocast would round where each pixel comes from, and on a CPU refuses to.
        with torch.autocast(x.device.type, enabled=False):
            mixed = augmented(x, y, self._settings, self._seed, self.epoch, index, self.trainer.global_rank)
        logits = self.model(mixed.x.contiguous(memory_format=MEMORY_FORMATS[self._numeric.memory_format]))
        loss = mixed_loss(logits.float(), mixed, self._settings.label_smoothing)
        assert self._loss_sum is not None
        self._loss_sum += loss.detach()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, index: int) -> None:
        """Let the average follow; within a long epoch give way too."""
        if self.ema is not None:
            self.ema.follow(self.model, self.trainer.global_step)
        if time.perf_counter() - self._gave_way > _WAY_SECONDS:
            self._give_way()

    def _give_way(self) -> None:
        """Let those in who wait to measure on the device; the other processes wait for this one at their next step."""
        if self._hold is not None and self.trainer.global_rank == 0:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self._hold.give_way()
        self._gave_way = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        """Note the epoch; the checkpoint is written after this.

        Raises:
            TrainingDiverged: If the loss is not finite.
        """
        assert self._loss_sum is not None
        batches = self.batches(self.epoch)
        loss = float(self.trainer.strategy.reduce(self._loss_sum / len(batches), reduce_op="mean"))
        if not math.isfinite(loss):
            raise TrainingDiverged(self.epoch)
        told = self._told
        told["epochs"] = self.epoch + 1
        told["images"] = batches.images * self.trainer.world_size
        told["train_loss"].append(loss)
        told["learning_rates"].append(self.trainer.optimizers[0].param_groups[0]["lr"])
        told["epoch_seconds"].append(time.perf_counter() - self._began)
        if self.trainer.global_rank == 0 and self._on_epoch is not None:
            self._on_epoch(told["epochs"], self._settings.epochs, loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning does not know."""
        checkpoint["full"] = {key: list(value) if isinstance(value, list) else value for key, value in self._told.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self._told = {**checkpoint["full"], "identity": self._told["identity"]}


class _Epochs:
    """A loader that gives whichever epoch is under way."""

    def __init__(self, module: FullModule) -> None:
        self._module = module

    def __len__(self) -> int:
        return len(self._module.batches(self._module.epoch))

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._module.batches(self._module.epoch))


def run_full(module: FullModule, folder: Path, resume: Path | None, device: torch.device) -> None:
    """Train ``module`` to the end of its schedule, from the checkpoint ``resume`` if there is one, quietly.

    Raises:
        TrainingDiverged: If the loss is not finite.
        InputError: The data cannot be read any more.
        torch.OutOfMemoryError: As it comes.
        OSError: A checkpoint cannot be written.
    """
    settings, numeric = module._settings, module._numeric
    several = settings.devices > 1
    keep = ModelCheckpoint(
        dirpath=folder,
        filename="{epoch:05d}",
        monitor="step",
        mode="max",
        save_top_k=_KEPT,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    with quiet():
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=settings.devices if several or device.type == "cpu" else [device.index],
            # Processes that this one starts, and no second run of the whole command.
            strategy="ddp_spawn" if several else "auto",
            precision="bf16-mixed" if numeric.precision == "bf16" else "32-true",
            max_epochs=settings.epochs,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            gradient_clip_val=settings.clip_norm,
            callbacks=[keep],
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            # Named, so that a SLURM job or an MPI launch around the command is not taken for distributed training.
            plugins=[LightningEnvironment()],
        )
        try:
            trainer.fit(module, ckpt_path=resume, weights_only=True)
        except ProcessRaisedException as error:
            raise as_raised(error) from None
        except BaseException:
            # A signal that reaches this process alone must not leave the others training on in a folder that is free again.
            for process in getattr(getattr(trainer.strategy, "launcher", None), "procs", ()):
                process.kill()
                process.join()
            raise


def as_raised(error: ProcessRaisedException) -> Exception:
    """Return what one of several processes died of as the exception that it was there; ``error`` itself where it is another.

    Its traceback is all that comes over: the kind of the last exception in it, and what that one said.
    """
    last = str(error).rpartition("Traceback (most recent call last):")[2]
    raised = next((line for line in last.splitlines()[1:] if line and not line[0].isspace()), "")
    name, _, told = raised.partition(": ")
    kind = name.rpartition(".")[2]
    if kind == TrainingDiverged.__name__ and (epoch := re.search(r"epoch (\d+)$", told)):
        return TrainingDiverged(int(epoch[1]) - 1)
    if kind == InputError.__name__:
        return InputError(told)
    if kind in ("OutOfMemoryError", "MemoryError") or is_out_of_memory(RuntimeError(told)):
        return torch.OutOfMemoryError(told or "out of memory")
    if number := re.match(r"\[Errno (\d+)\]", told):
        return OSError(int(number[1]), os.strerror(int(number[1])))
    return error
