"""Metadata as one learned vector per class."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import nn

from ..core.conditioning import Conditioner, Observation, PluginConfig, Signal, Spec
from ..core.errors import MsdmError, did_you_mean
from ..core.sample import Sample
from .metadata import read_column, require_columns


class ClassLabelConfig(PluginConfig):
    """Settings of `ClassLabel`."""

    column: str = Field(min_length=1, description="Column of the manifest whose values are the classes.")
    dim: int = Field(128, ge=1, le=2**16, description="Width of the embedding.")


class ClassLabel(Conditioner):
    """An embedding of a column's value, with one more row for the absent condition.

    The facts are the sorted distinct values of the column in the training split: ``{"classes": [...]}``.
    """

    Config = ClassLabelConfig
    reads = frozenset({"metadata"})

    @classmethod
    def fit(cls, config: ClassLabelConfig, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        require_columns(rows, [config.column], reader="class_label")
        return {"classes": sorted({row[config.column] for row in rows})}

    def __init__(self, config: ClassLabelConfig, facts: Mapping[str, Any]) -> None:
        super().__init__(config, facts)
        self.spec = Spec("vector", config.dim)
        self._index = {name: i for i, name in enumerate(facts["classes"])}
        self.embedding = nn.Embedding(len(self._index) + 1, config.dim)

    def observe(self, sample: Sample) -> Observation:
        """``index``: () int64.

        Raises
        ------
        MsdmError
            The sample lacks the column, or its value was not in the training split.
        """
        column = self.config.column
        value = read_column(sample, column)
        if value not in self._index:
            raise MsdmError(
                f"sample {sample.id!r}: {column} is {value!r}, which the model was not trained on; "
                f"{did_you_mean(value, self._index)}"
            )
        return {"index": torch.tensor(self._index[value])}

    def encode(self, batch: Observation) -> Signal:
        return Signal(self.embedding(batch["index"]))

    def null(self, like: Signal) -> Signal:
        return Signal(self.embedding.weight[-1].to(like.data.dtype).expand_as(like.data))
