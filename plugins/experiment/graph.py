"""The steps of an experiment and what each needs."""

from typing import Any

from ..choice import choose
from ..segmentation.scores import mask_metrics
from ..solver import load_solver
from .costs import START, Costs
from .protocol import Protocol, choice, fingerprint
from .steps import Step, ordered

SELECTED, RUN, PAIRS, MODEL, MASKS = "selected.csv", "run", "pairs", "model", "masks"
SCORES, SHAPES, FIDELITY, FIGURES = "scores.csv", "eccentricity.csv", "fidelity.json", "figures"
REPORT = "report"
"""The last step, whose files are the experiment's."""


def build_steps(protocol: Protocol, costs: Costs) -> list[Step]:
    """All steps, in an order in which they can be done.

    Parameters
    ----------
    protocol : Protocol
    costs : Costs
    """
    maker = _Maker(protocol, costs)
    steps = [maker.select()]
    for name in protocol.plan.generators:
        steps += [maker.train(name), maker.paint(name), maker.repaint(name), maker.fidelity(name)]
    scores = []
    for arm in protocol.plan.arms:
        for seed in protocol.plan.seeds:
            steps += [maker.segmenter(arm, kind, seed) for kind in protocol.plan.kinds]
            steps.append(maker.predict(arm, seed))
            scores.append(maker.score(arm, seed))
    steps += scores
    if len(protocol.annotators) > 1:
        steps.append(maker.agreement())
    steps.append(maker.shapes())
    last = [
        step.name
        for step in steps
        if step.job in ("score", "agreement", "shapes", "fidelity", "paint", "select")
    ]
    steps.append(maker.report(tuple(last)))
    return ordered(steps)


class _Maker:
    def __init__(self, protocol: Protocol, costs: Costs) -> None:
        self.protocol, self.plan, self.costs = protocol, protocol.plan, costs
        splits, folder = self.plan.splits, protocol.folder
        self.train_data = fingerprint(folder, protocol.rows[splits.train])
        self.validation_data = fingerprint(folder, protocol.rows[splits.validation])
        self.fidelity_data = fingerprint(folder, protocol.rows[self.plan.fidelity_split])
        tests = [row for split in protocol.test_splits for row in protocol.rows[split]]
        self.test_images = fingerprint(folder, tests, masks=False)
        self.truths = {
            name: fingerprint(root, tests, images=False) for name, root in protocol.annotators.items()
        }
        self.context = {"data": str(folder)}
        # how many match is not known before they are measured; in the paper it was one in five
        chosen = self.plan.selection.limit or max(1, len(protocol.rows[splits.train]) // 5)
        self.painted = chosen * self.plan.synthesis.versions
        where, entry = "segmenter", choice(self.plan.segmenter)
        name, _, config = choose("segmenter", entry, where)
        self.segmenter_choice = {"type": name, **config.model_dump(mode="json")}
        name, _, config = choose("embedder", choice(self.plan.fidelity.embedder), "fidelity.embedder")
        self.embedder = {"type": name, **config.model_dump(mode="json")}

    def select(self) -> Step:
        plan = self.plan
        settings = {**plan.selection.model_dump(), "split": plan.splits.train, "data": self.train_data}
        return Step("select", "select", settings, outputs=(SELECTED,), cost=2, context=self.context)

    def train(self, name: str) -> Step:
        recipe = self.protocol.recipes[name].model_dump(mode="json", by_alias=True)
        for label in ("summary", "reference"):
            recipe.pop(label)
        context = {**self.context, "sample": recipe.pop("sample")}
        data = {"train": self.train_data, "validation": self.validation_data}
        return Step(
            f"train.{name}",
            "train",
            {"recipe": recipe, "data": data},
            outputs=(f"{RUN}/weights.safetensors",),
            cost=self.costs.train[name],
            resumable=True,
            context=context,
        )

    def _sampling(self, name: str) -> dict[str, Any]:
        recipe = self.protocol.recipes[name]
        # with steps and spacing filled in: the run may have been trained with others as its defaults
        settled = load_solver(recipe.sample.solver).settle(recipe.sample, recipe.diffusion.timesteps)
        return settled.model_dump(mode="json", exclude={"memory"})

    def paint(self, name: str) -> Step:
        plan = self.plan
        synthesis = plan.synthesis.model_dump(mode="json")
        return Step(
            f"paint.{name}",
            "paint",
            {"synthesis": synthesis, "sampling": self._sampling(name), "data": self.train_data},
            ("select", f"train.{name}"),
            (f"{PAIRS}/*/*", f"{PAIRS}/metadata.csv"),
            START + self.costs.paint[name] * self.painted,
            resumable=True,
            context=self.context,
        )

    def repaint(self, name: str) -> Step:
        plan = self.plan
        fields = len(self.protocol.rows[plan.fidelity_split])
        settings = {
            "split": plan.fidelity_split,
            "versions": plan.fidelity.versions,
            "seed": plan.synthesis.seed,
            "batch": plan.synthesis.batch,
            "sampling": self._sampling(name),
            "data": self.fidelity_data,
        }
        return Step(
            f"repaint.{name}",
            "repaint",
            settings,
            (f"train.{name}",),
            (f"{PAIRS}/*/*", f"{PAIRS}/metadata.csv"),
            START + self.costs.paint[name] * fields * plan.fidelity.versions,
            resumable=True,
            context=self.context,
        )

    def fidelity(self, name: str) -> Step:
        plan = self.plan
        settings = {
            "embedder": self.embedder,
            "groups": list(plan.fidelity.groups),
            "split": plan.fidelity_split,
            "train": plan.splits.train,
            "kinds": list(plan.kinds),
            "data": [self.fidelity_data, self.train_data],
        }
        fields = len(self.protocol.rows[plan.fidelity_split])
        cost = 5 + 2 * fields * self.costs.megapixels * (1 + plan.fidelity.versions)
        return Step(
            f"fidelity.{name}", "fidelity", settings, (f"repaint.{name}",), cost=cost, context=self.context
        )

    def segmenter(self, arm: str, kind: str, seed: int) -> Step:
        generators = self.plan.arms[arm].generators
        splits = self.plan.splits
        painted = sum(self.painted for _ in generators)
        fields = len(self.protocol.rows[splits.train]) + painted
        settings = {
            "segmenter": self.segmenter_choice,
            "kind": kind,
            "seed": seed,
            "splits": splits.model_dump(),
            "data": {"train": self.train_data, "validation": self.validation_data},
        }
        return Step(
            f"segmenter.{arm}.{kind}.seed{seed}",
            "segmenter",
            settings,
            tuple(f"paint.{name}" for name in generators),
            (f"{MODEL}/*.safetensors",),
            self.costs.segmenter(fields),
            context=self.context,
        )

    def predict(self, arm: str, seed: int) -> Step:
        kinds = self.plan.kinds
        fields = len(self.protocol.test_ids)
        return Step(
            f"predict.{arm}.seed{seed}",
            "predict",
            {"splits": list(self.protocol.test_splits), "data": self.test_images},
            tuple(f"segmenter.{arm}.{kind}.seed{seed}" for kind in kinds),
            (f"{MASKS}/*/*",),
            1 + 6 * fields * self.costs.megapixels * len(kinds),
            context=self.context,
        )

    def _truths(self) -> dict[str, Any]:
        plan = self.plan
        return {
            "tests": {name: test.split for name, test in plan.tests.items()},
            "kinds": list(plan.kinds),
            "metrics": list(mask_metrics()),
            "distance": plan.distance,
            "truths": self.truths,
        }

    def score(self, arm: str, seed: int) -> Step:
        fields = len(self.protocol.test_ids) * len(self.protocol.annotators)
        roots = {name: str(root) for name, root in self.protocol.annotators.items()}
        return Step(
            f"score.{arm}.seed{seed}",
            "score",
            self._truths(),
            (f"predict.{arm}.seed{seed}",),
            (SCORES,),
            1 + 3 * fields * self.costs.megapixels,
            context={**self.context, "annotators": roots},
        )

    def agreement(self) -> Step:
        count = len(self.protocol.annotators)
        fields = len(self.protocol.test_ids) * count * (count - 1) // 2
        roots = {name: str(root) for name, root in self.protocol.annotators.items()}
        return Step(
            "agreement",
            "agreement",
            self._truths(),
            outputs=(SCORES,),
            cost=1 + 3 * fields * self.costs.megapixels,
            context={**self.context, "annotators": roots},
        )

    def shapes(self) -> Step:
        plan = self.plan
        tests = {name: test.split for name, test in plan.tests.items()}
        settings = {
            "kinds": list(plan.kinds),
            "train": plan.splits.train,
            "tests": tests,
            "arms": {name: list(arm.generators) for name, arm in plan.arms.items()},
            "data": [self.train_data, self.truths[plan.annotator]],
        }
        needs = tuple(f"paint.{name}" for name in plan.generators)
        return Step("shapes", "shapes", settings, needs, (SHAPES,), cost=5, context=self.context)

    def report(self, needs: tuple[str, ...]) -> Step:
        settings = {"plan": self.plan.model_dump(mode="json"), "columns": list(self.protocol.columns)}
        sources = {name: str(root) for name, root in self.protocol.annotators.items()}
        return Step(
            REPORT, "report", settings, needs, cost=10, context={**self.context, "annotators": sources}
        )
