"""Loggers beside metrics.jsonl; what a broken one does is in tests/cli/test_hostile.py."""

import builtins

import numpy as np
import pytest
from PIL import Image

from msdm_kit.core.errors import MsdmError
from msdm_kit.plugins.check import check_plugins
from msdm_kit.plugins.loggers.started import start_loggers
from msdm_kit.plugins.loggers.tensorboard import TensorBoard, TensorBoardConfig
from msdm_kit.plugins.recipe_files import load_recipe


def recipe(*entries: str):
    return load_recipe("quickstart", [f"train.loggers=[{', '.join(entries)}]"])


def test_tensorboard_gets_figures_pictures_and_the_recipe(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sheet = tmp_path / "sheet.png"
    Image.fromarray(np.full((4, 6, 3), 200, np.uint8)).save(sheet)
    with start_loggers(recipe("{type: tensorboard}"), tmp_path / "loggers", 0, pytest.fail) as loggers:
        loggers.scalars(1, {"loss": 0.5, "lr": 1e-4})
        loggers.scalars(2, {"loss": 0.25, "validation": {"t=0.125": 0.75}})
        loggers.picture(2, "preview", sheet)
    assert loggers.names == []
    events = EventAccumulator(str(tmp_path / "loggers" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("validation/t=0.125")] == [(2, 0.75)]
    (picture,) = events.Images("preview")
    assert (picture.step, picture.height, picture.width) == (2, 4, 6)
    assert "recipe/text_summary" in events.Tags()["tensors"]


def test_steps_after_the_checkpoint_are_purged_when_a_run_goes_on(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, values in ((0, {1: 1.0, 2: 2.0, 3: 3.0}), (1, {2: 20.0})):
        logger = TensorBoard(TensorBoardConfig())
        logger.start(tmp_path, {}, done)
        for step, value in values.items():
            logger.scalars(step, {"loss": value})
        logger.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 20.0)]


def test_what_was_logged_is_on_the_disc_when_a_checkpoint_is_written(tmp_path):
    """A run that is killed after it does not log it again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "tensorboard"
    with start_loggers(
        recipe("{type: tensorboard, flush_seconds: 900}"), tmp_path, 0, pytest.fail
    ) as loggers:
        loggers.scalars(1, {"loss": 0.5})
        loggers.flush()
        events = EventAccumulator(str(folder))
        events.Reload()
        assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 0.5)]


def test_tensorboard_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.startswith("torch.utils.tensorboard"):
            raise ModuleNotFoundError("No module named 'tensorboard'")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MsdmError, match=r"pip install 'msdm-kit\[tensorboard\]', or take it out of train\.loggers"
    ):
        start_loggers(recipe("{type: tensorboard}"), tmp_path / "loggers", 0, pytest.fail).__enter__()
    assert not (tmp_path / "loggers").exists()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{type: tensorbord}", "train.loggers.0.type: no logger 'tensorbord'; did you mean 'tensorboard'"),
        ("{type: tensorboard, flush: 3}", "train.loggers.0.flush: unknown key; did you mean 'flush_seconds'"),
        ("{type: tensorboard, flush_seconds: 0}", "train.loggers.0.flush_seconds: input should be greater"),
    ],
)
def test_loggers_of_a_recipe_are_checked_like_its_other_plugins(entry, said):
    with pytest.raises(MsdmError, match=said):
        check_plugins(recipe(entry))


def test_a_recipe_without_loggers_starts_none(tmp_path):
    with start_loggers(load_recipe("quickstart"), tmp_path, 0, pytest.fail) as loggers:
        loggers.scalars(1, {"loss": 1.0})
        loggers.picture(1, "preview", tmp_path / "never-opened.png")
    assert list(tmp_path.iterdir()) == []
