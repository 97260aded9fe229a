"""What changes on a GPU, against its twin on the CPU: ``pytest -m gpu`` on a machine that has one."""

import pytest
import torch

from msdm_kit.core.dataset import FieldDataset
from msdm_kit.core.denoiser import to_device
from msdm_kit.core.recipe import SampleSection
from msdm_kit.core.sampling import Sampler
from msdm_kit.core.solvers import ddim
from msdm_kit.plugins.data import data_folder
from msdm_kit.plugins.painting_estimate import estimate_painting
from msdm_kit.plugins.pipeline import Pipeline
from msdm_kit.plugins.plan import plan_run
from msdm_kit.plugins.recipe_files import load_recipe
from msdm_kit.plugins.training import train

from .toy import SIDE, observations, toy_denoiser, toy_folder

pytestmark = pytest.mark.gpu

TOY = [
    "data.crop=16",
    "backbone.channels=16",
    "train.steps=2",
    "train.batch=2",
    "train.workers=1",
    "sample.steps=4",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_folder(tmp_path_factory.mktemp("data"), ["a", "b", "c"], ["train", "train", "val"])


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return train(load_recipe("quickstart", TOY), folder, out, device="cuda")


def test_a_run_trained_on_the_gpu_in_bf16_resumes_there(folder, run):
    assert train(load_recipe("quickstart", TOY), folder, run, resume=True, device="cuda") == run


def test_fp32_samples_on_the_gpu_are_those_of_the_cpu(folder, run):
    fields = [FieldDataset(folder)[i] for i in range(2)]
    painted = []
    for device in ("cpu", "cuda"):
        with torch.backends.cudnn.flags(allow_tf32=False):
            pipeline = Pipeline.load(run, device=device)
            painted.append([s.image for s in pipeline.sample(fields, precision="fp32")])
    for cpu, gpu in zip(*painted, strict=True):
        assert abs(cpu - gpu).max() < 1e-3


def test_bf16_samples_on_the_gpu_stay_near_fp32(folder, run):
    fields = [FieldDataset(folder)[0]]
    pipeline = Pipeline.load(run, device="cuda")
    exact, fast = (
        next(iter(pipeline.sample(fields, precision=precision))).image for precision in ("fp32", "bf16")
    )
    assert abs(exact - fast).mean() < 0.05


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_change_no_sample(precision):
    denoiser = toy_denoiser("spade", "cross").to("cuda").to(memory_format=torch.channels_last)
    settings = SampleSection(steps=6, guidance=2.0, precision=precision)
    images = []
    for on in (True, False):
        sampler = Sampler(denoiser, settings, ddim)
        if not on:
            sampler._graphs = None
        for seed in (0, 1):  # the second batch goes through what the first one recorded
            seen = to_device(observations(denoiser, 3, seed), torch.device("cuda"))
            with torch.no_grad():
                signals = denoiser.encode(seen)
            images.append(sampler.draw(signals, ids=["a", "b", "c"], size=(SIDE, SIDE), seed=seed))
    for with_graph, without in zip(images[:2], images[2:], strict=True):
        assert float((with_graph - without).abs().max()) < (1e-4 if precision == "fp32" else 0.05)


def test_the_step_is_recorded_once_per_shape():
    denoiser = toy_denoiser("spade").to("cuda")
    sampler = Sampler(denoiser, SampleSection(steps=6), ddim)
    for seed in (0, 1):
        with torch.no_grad():
            signals = denoiser.encode(to_device(observations(denoiser, 2, seed), torch.device("cuda")))
        sampler.draw(signals, ids=["a", "b"], size=(SIDE, SIDE), seed=seed)
    (recorded,) = sampler._graphs._recorded.values()
    assert recorded._replay is not None
    assert not recorded.failed


def peak(work):
    """Most bytes of PyTorch's allocator while `work` runs."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


WIDE = ["data.crop=64", "backbone.channels=64", "train.steps=3", "train.workers=0", "train.batch=8"]


@pytest.mark.parametrize("more", [[], ["train.precision=fp32"], ["train.checkpointing=true"]])
def test_training_takes_what_is_estimated(more, tmp_path):
    recipe = load_recipe("quickstart", [*WIDE, *more])
    estimate = plan_run(recipe, "histology-nuclei", tmp_path / "dry", device="cuda").memory.total
    measured = peak(lambda: train(recipe, "histology-nuclei", tmp_path / "run", device="cuda"))
    assert estimate == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("batch", [1, 4])
def test_painting_takes_what_is_estimated(precision, batch):
    pipeline = Pipeline.load("demo", device="cuda")
    dataset = FieldDataset(data_folder("histology-nuclei"), limit=batch)
    settings = {"precision": precision, "steps": 4}
    chosen = pipeline.settings(**settings)
    memory = estimate_painting(pipeline.recipe, pipeline.denoiser, chosen, size=dataset.sizes[0], batch=batch)
    fields = [dataset[i] for i in range(batch)]
    measured = peak(lambda: list(pipeline.sample(fields, batch=batch, **settings)))
    assert memory.total == pytest.approx(measured, rel=0.2)


def test_painting_goes_on_where_the_memory_of_the_gpu_runs_out(caplog):
    pipeline = Pipeline.load("demo", device="cuda")
    dataset = FieldDataset(data_folder("histology-nuclei"), limit=8)
    fields = [dataset[i] for i in range(8)]
    whole = [s.image for s in pipeline.sample(fields, batch=1, precision="fp32", steps=2)]
    pipeline = Pipeline.load("demo", device="cuda")
    one = estimate_painting(pipeline.recipe, pipeline.denoiser, pipeline.settings(), size=dataset.sizes[0])
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 3 * one.total / total))
    try:
        found = [s.image for s in pipeline.sample(fields, batch=8, precision="fp32", steps=2)]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with 8 fields at once: going on with 4" in caplog.messages
    for a, b in zip(found, whole, strict=True):
        assert abs(a - b).max() < 0.05
