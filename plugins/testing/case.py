"""What the test classes of every kind share: the plugin by its name, its settings, and the checks' messages.

The classes hold no assert statements: pytest spells those out in a test's own file only, and a stranger needs
to read what was expected of which plugin.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...core.conditioning import PluginConfig
from ..host import get_host
from .pickling import arrived


class Conformance:
    """What every plugin of a kind is checked for; a subclass names the plugin.

    Attributes
    ----------
    kind : str
        The kind of plugin, set by the classes of this package.
    plugin : str
        Its name, as a recipe calls it.
    settings : mapping
        Its settings: those that it cannot do without, and those that make it small. Tests run on one core.
    """

    kind: ClassVar[str]
    plugin: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}

    def load(self) -> Any:
        """What the plugin stands for, from the host: it is found by its entry point, as a user finds it."""
        return get_host().load(self.kind, self.plugin)

    def check(self, holds: object, message: str) -> None:
        """Fail with the plugin's name and `message` unless `holds`."""
        if not holds:
            raise AssertionError(f"{self.kind} {self.plugin!r}: {message}")

    def close(self, a: Tensor, b: Tensor, message: str, *, rtol: float = 1e-4, atol: float = 1e-5) -> None:
        """Fail unless two tensors are equal within a tolerance; where shapes differ, too."""
        self.check(a.shape == b.shape, f"{message}: {tuple(a.shape)} is not {tuple(b.shape)}")
        self.check(torch.allclose(a, b, rtol=rtol, atol=atol), message)

    def test_is_registered_with_a_summary(self) -> None:
        plugin = get_host().get(self.kind, self.plugin)
        self.check(plugin.summary.strip(), "has no summary; its descriptor takes a line that says what it is")
        self.check("\n" not in plugin.summary, "its summary is one line")


class Configured(Conformance):
    """A plugin that is a class with a `Config`."""

    base: ClassVar[type]

    def config(self) -> Any:
        """The validated settings."""
        return self.load().Config.model_validate(dict(self.settings))

    def test_is_a_class_of_its_kind_with_a_docstring(self) -> None:
        cls = self.load()
        self.check(
            isinstance(cls, type) and issubclass(cls, self.base), f"is no subclass of {self.base.__name__}"
        )
        self.check((cls.__doc__ or "").strip(), "its class has no docstring; `plugins show` prints it")

    def test_settings_survive_the_recipe(self) -> None:
        cls, config = self.load().Config, self.config()
        self.check(issubclass(cls, PluginConfig), "its Config is no subclass of PluginConfig")
        again = cls.model_validate_json(config.model_dump_json())
        self.check(again == config, f"its settings do not survive JSON: {config!r} became {again!r}")
        self.check(arrived(config) == config, "its settings do not survive pickling")

    def test_settings_are_strict_and_described(self) -> None:
        cls = self.load().Config
        self.check(cls.model_config.get("extra") == "forbid", "its Config takes unknown keys; forbid them")
        for name, field in cls.model_fields.items():
            described = (field.description or "").strip()
            self.check(described, f"setting {name!r} has no description; give Field(description=...)")


_BUILT: dict[object, Any] = {}


def built(case: Any) -> Any:
    """The plugin of a test case's class, built once; tests that change it take a copy."""
    cls = type(case)
    if cls not in _BUILT:
        _BUILT[cls] = case.build()
    return _BUILT[cls]


@contextmanager
def seeded() -> Iterator[None]:
    """Weights are drawn from one seed in it, whatever ran before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Move every weight off its start: what starts at zero would hide what it is multiplied with."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two states are equal, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def devices() -> list[torch.device]:
    """The CPU, and a GPU where there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def valueless(error: Exception, device: torch.device) -> bool:
    """Whether it says that values were asked for on `meta`, which has none; a network may look at its own."""
    text = str(error)
    asked = isinstance(error, NotImplementedError) or "cannot be called on meta" in text
    return device.type == "meta" and asked
