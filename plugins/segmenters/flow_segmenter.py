"""A network in Cellpose's training loop, flows and dynamics."""

import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from ...core.checkpoint import load_tensors, save_tensors
from ...core.conditioning import PluginConfig
from ...core.errors import MsdmError
from ...core.sample import Image, Labels
from ...core.seeds import rng_for, seed_for
from .base import Fields, Losses, Progress, Segmenter
from .flows import Maps, cellpose, instances, quiet, targets

WARM_UP = 10
"""Epochs in which Cellpose's learning rate grows from 0."""


class FlowConfig(PluginConfig):
    """Settings of training and of the way from flows to instances.

    From 100 epochs on the learning rate is halved every 5 over the last 50, from 301 on every 10 over the
    last 100.
    """

    epochs: int = Field(
        100,
        gt=WARM_UP,
        description="Passes over the fields; the learning rate grows over the first 10.",
    )
    crops: int | None = Field(
        None, ge=1, description="Crops per epoch, of fields drawn at random; null takes one of every field."
    )
    batch: int = Field(4, ge=1, description="Crops per step of AdamW.")
    learning_rate: float = Field(2e-3, gt=0, description="Of AdamW.")
    weight_decay: float = Field(0.1, ge=0, description="Of AdamW.")
    scale_range: float = Field(
        0.5,
        ge=0,
        lt=2,
        description="Crops are scaled by 1 - s / 2 to 1 + s / 2, turned by any angle, and flipped.",
    )
    flow_threshold: float = Field(
        0.4,
        ge=0,
        description="Instances whose flow differs more from that of their outline are dropped; 0 drops none.",
    )
    cellprob_threshold: float = Field(0.0, description="Least logit of a pixel of an instance.")
    min_size: int = Field(15, ge=1, description="Instances of fewer pixels are dropped.")


class FlowSegmenter(Segmenter):
    """A network that maps an image to flows and cell probability.

    Attributes
    ----------
    name : str
        Of the plugin; weights of another are refused.
    """

    Config: ClassVar[type[PluginConfig]] = FlowConfig
    name: ClassVar[str]

    def __init__(self, config: Any, kind: str, device: torch.device) -> None:
        super().__init__(config, kind, device)
        self._network: nn.Module | None = None

    @abstractmethod
    def architecture(self) -> nn.Module:
        """A new network that `cellpose.train.train_seg` trains and `cellpose.core.run_net` runs.

        Its weights are drawn from PyTorch's generator.
        """

    def begin(self, network: nn.Module) -> None:  # most begin with what was drawn
        """Give a new network the weights that training begins with, or that an untrained one segments with.

        Raises
        ------
        MsdmError
            There are none, and it is of no use without.
        """

    @property
    def network(self) -> nn.Module:
        """The network with its weights, in evaluation mode, on its device."""
        if self._network is None:
            self._network = self._new()
        return self._network

    def _new(self) -> nn.Module:
        network = self.architecture()
        self.begin(network)
        return network.to(self.device).eval()

    @property
    @abstractmethod
    def crop(self) -> int:
        """Height and width of a training crop, in pixels."""

    @abstractmethod
    def tile(self, height: int, width: int) -> int:
        """Height and width of the tiles in which an image of this size is segmented, in pixels."""

    def inputs(self, image: Image) -> Maps:
        """What the network sees of an image (3, H, W): (C, H, W) float32; here each channel is scaled so that
        its 1st and 99th percentile are 0 and 1."""
        scaled: Maps = cellpose("transforms").normalize_img(image.transpose(1, 2, 0).copy())
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))

    def fit(
        self,
        train: Fields,
        validation: Fields,
        *,
        seed: int,
        on_progress: Progress | None = None,
    ) -> Losses:
        epochs = self.config.epochs
        if on_progress is not None:
            on_progress(0, epochs)
        cuda = [self.device] if self.device.type == "cuda" else []
        with quiet(), torch.random.fork_rng(cuda), tempfile.TemporaryDirectory() as scratch:
            torch.manual_seed(seed_for(seed, "segmenter"))
            network = self._new()
            images, labels = self._arrays(train)
            if not images:
                raise MsdmError(
                    f"none of {len(train)} training fields has an instance of kind {self.kind!r}; train on "
                    f"fields with such masks"
                )
            # Cellpose draws the same crops for every seed; in another order they are of other fields.
            order = rng_for(seed, "segmenter").permutation(len(images))
            test_images, test_labels = self._arrays(validation)
            done = 1

            def saved(path: Any) -> None:
                """In place of a pickle. The loop saves after every epoch but the first, and once more."""
                nonlocal done
                done += 1
                if on_progress is not None and done <= epochs:
                    on_progress(done, epochs)

            network.save_model = saved  # type: ignore[assignment]  # of this object alone
            _, losses, test_losses = cellpose("train").train_seg(
                network,
                train_data=[images[i] for i in order],
                train_labels=[labels[i] for i in order],
                test_data=test_images or None,
                test_labels=test_labels or None,
                batch_size=self.config.batch,
                learning_rate=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
                n_epochs=epochs,
                nimg_per_epoch=self.config.crops,
                scale_range=self.config.scale_range,
                bsize=self.crop,
                rescale=False,
                normalize={"normalize": False},
                min_train_masks=0,
                save_path=scratch,
                save_every=1,
            )
            del network.save_model
        if not np.isfinite(losses).all():
            raise MsdmError(
                f"the training loss is not finite after {int(np.isfinite(losses).argmin())} epochs; lower "
                f"learning_rate, now {self.config.learning_rate:g}"
            )
        self._network = network.eval()
        measured = {i + 1: float(v) for i, v in enumerate(test_losses) if v} if test_images else {}
        return Losses(tuple(map(float, losses)), measured)

    def segment(self, image: Image) -> Labels:
        return instances(
            self.maps(image),
            flow_threshold=self.config.flow_threshold,
            cellprob_threshold=self.config.cellprob_threshold,
            min_size=self.config.min_size,
            device=self.device,
        )

    def maps(self, image: Image) -> Maps:
        """Flow and logit, as `flows.instances` takes them, (3, H, W)."""
        inputs = self.inputs(image).transpose(1, 2, 0)[None]
        found, _ = cellpose("core").run_net(self.network, inputs, bsize=self.tile(*image.shape[1:]))
        return np.ascontiguousarray(found[0].transpose(2, 0, 1))

    def save(self, path: Path) -> None:
        save_tensors(path, self.network.state_dict(), self._facts())

    def load(self, path: Path) -> None:
        tensors, facts = load_tensors(path)
        for key, mine in self._facts().items():
            if facts.get(key) != mine:
                raise MsdmError(
                    f"{path} holds weights of {key} {facts.get(key)!r}, and {mine!r} is wanted; give those "
                    f"of such a segmenter"
                )
        try:
            # settings that came with the file may ask for any size: memory is taken for what fits it
            with torch.device("meta"):
                self.architecture().load_state_dict(tensors, assign=True)
            network = self.architecture()
            network.load_state_dict(tensors)
        except (RuntimeError, TypeError, OverflowError):  # torch's words for a size that no tensor can have
            raise MsdmError(
                f"{path} holds the weights of another network than these settings of {self.name!r} build; "
                f"give the settings that it was trained with"
            ) from None
        self._network = network.to(self.device).eval()

    def _facts(self) -> dict[str, Any]:
        return {"segmenter": self.name, "kind": self.kind}

    def _arrays(self, fields: Fields) -> tuple[list[Maps], list[Maps]]:
        """Inputs and targets of the fields that have an instance."""
        images, labels = [], []
        for i in range(len(fields)):
            sample = fields[i]
            mask = sample.labels(self.kind)
            if sample.image is None:
                raise MsdmError(f"field {sample.id!r} has no image to train on; give fields with images")
            if mask.any():
                images.append(self.inputs(sample.image))
                labels.append(targets(mask, self.device))
        return images, labels
