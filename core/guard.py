"""What plugins hand to the engine, checked: who broke a promise is named, and which.

Nothing here reads a number of a device's memory, which would make every step wait for it: values are checked
where they are on the CPU, and on the device only after a step has failed.
"""

import signal as unix
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch
from torch import Tensor, nn

from .conditioning import Conditioner, Observation, Signal, Spec
from .errors import MsdmError, out_of_memory
from .injection import Injector, State
from .sample import Sample

OBSERVE_SECONDS = 300.0
"""Longest that one condition may look at one field. The longest of ours takes milliseconds."""
_NOTE = "msdm-kit: "
_MISTAKES = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
_SHAPES = {"map": "(B, C, H, W)", "tokens": "(B, L, D)", "vector": "(B, D)"}


class _Overdue(BaseException):
    """The time is over; not an Exception, which the code that hangs might catch."""


def title(name: str, part: nn.Module, kind: str = "conditioner") -> str:
    """A part as messages name it: by the recipe's name and by the class of its plugin."""
    return f"{kind} {name!r} ({type(part).__module__}.{type(part).__qualname__})"


@contextmanager
def blamed(name: str, conditioner: Conditioner, doing: str) -> Iterator[None]:
    """Turn what a conditioner raises into an MsdmError that names it.

    What stands for a mistake of the user's, and a lack of memory, pass as they are.

    Parameters
    ----------
    name : str
        The condition's, in the recipe.
    conditioner : Conditioner
    doing : str
        Such as ``fails to encode``.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, MsdmError) or out_of_memory(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown place"
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise MsdmError(
            f"{title(name, conditioner)} {doing}: {text} (at {place}); mend or update its plugin"
        ) from error


def observe(name: str, conditioner: Conditioner, sample: Sample) -> Observation:
    """What a condition sees of a sample, checked.

    Parameters
    ----------
    name : str
        The condition's, in the recipe.
    conditioner : Conditioner
    sample : Sample

    Returns
    -------
    dict of str -> Tensor
        On the CPU; numbers are finite.

    Raises
    ------
    MsdmError
        It fails, gives something else, or takes more than `OBSERVE_SECONDS` (seen where signals are: in the
        main thread of a process on Unix, which loader workers are; code that never returns to Python is not
        stopped).
    """
    what = title(name, conditioner)
    with blamed(name, conditioner, f"fails on sample {sample.id!r}"):
        try:
            with _within(OBSERVE_SECONDS):
                seen = conditioner.observe(sample)
        except _Overdue:
            raise MsdmError(
                f"{what} has looked at sample {sample.id!r} for more than {OBSERVE_SECONDS:g} s; look at "
                f"that field, or mend its plugin"
            ) from None
    if not isinstance(seen, dict) or not all(isinstance(v, Tensor) for v in seen.values()):
        given = type(seen).__name__
        if isinstance(seen, dict):
            given = "a dict with " + ", ".join(sorted({type(v).__name__ for v in seen.values()}))
        raise MsdmError(
            f"{what} observes {given} on sample {sample.id!r}; `observe` returns a dict of tensors: "
            f"mend its plugin"
        )
    for key, value in seen.items():
        if value.device.type != "cpu":
            raise MsdmError(
                f"{what} observes {key!r} on {value.device}; observations stay on the CPU: mend its plugin"
            )
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise MsdmError(
                f"{what} observes {key!r} with numbers that are not finite on sample {sample.id!r}; look at "
                f"that field, or mend its plugin"
            )
    return seen


def collate(name: str, conditioner: Conditioner, observations: Sequence[Observation]) -> Observation:
    """A batch of observations; a failure names the condition."""
    with blamed(name, conditioner, "fails to collate a batch"):
        return conditioner.collate(observations)


def encode(name: str, conditioner: Conditioner, batch: Observation, rows: int | None = None) -> Signal:
    """A condition of a batch of `rows` fields as injectors take it, its form checked.

    Raises
    ------
    MsdmError
        It fails, or gives something else than its `spec` says.
    """
    with blamed(name, conditioner, "fails to encode"):
        signal = conditioner.encode(batch)
    given = next((v.device for v in batch.values()), None)
    if fault := signal_fault(signal, conditioner.spec, given, rows):
        raise MsdmError(f"{title(name, conditioner)} encodes {fault}; mend its plugin")
    return signal


def null(name: str, conditioner: Conditioner, like: Signal) -> Signal:
    """The absent condition, in the form of `like`.

    Raises
    ------
    MsdmError
        It fails, or has another form.
    """
    with blamed(name, conditioner, "fails to give its absent condition"):
        absent = conditioner.null(like)
    fault = signal_fault(absent, conditioner.spec, like.data.device, len(like.data))
    if not fault and absent.data.shape != like.data.shape:
        fault = f"{tuple(absent.data.shape)} for a present one of {tuple(like.data.shape)}"
    if fault:
        raise MsdmError(f"{title(name, conditioner)} gives as its absent condition {fault}; mend its plugin")
    return absent


def signal_fault(signal: object, spec: Spec, device: torch.device | None, rows: int | None) -> str:
    """What is wrong with the form of a signal, or nothing.

    Parameters
    ----------
    signal : object
        What a plugin gave.
    spec : Spec
    device : torch.device or None
        Where it belongs; None: anywhere.
    rows : int or None
        Of the batch; None: not known.
    """
    if not isinstance(signal, Signal) or not isinstance(signal.data, Tensor):
        return f"{type(getattr(signal, 'data', signal)).__name__}, and a condition is a Signal of a tensor"
    data, form = signal.data, f"{_SHAPES[spec.kind]} with {spec.width} {'D' if spec.kind != 'map' else 'C'}"
    width = data.shape[1 if spec.kind == "map" else -1] if data.ndim > 1 else None
    if data.ndim != {"map": 4, "tokens": 3, "vector": 2}[spec.kind] or width != spec.width:
        return f"a shape of {tuple(data.shape)}, and its spec is {spec.kind} {form}"
    if not data.is_floating_point():
        return f"{data.dtype}, and a condition is floating point"
    if data.dtype == torch.float16:
        return f"{data.dtype}, whose numbers end at 65504, and a condition is float32 or bfloat16"
    if device is not None and data.device != device:
        return f"on {data.device}, and what it was given is on {device}"
    if rows is not None and len(data) != rows:
        return f"{len(data)} rows for a batch of {rows}"
    if signal.mask is not None and signal.mask.shape != data.shape[:2]:
        return f"a mask of {tuple(signal.mask.shape)} for tokens of {tuple(data.shape)}"
    return ""


def prepare(injector: Injector, site: str, signal: Signal) -> State:
    """What an injector prepares of a condition; `explained` reads what it raises.

    Raises
    ------
    MsdmError
        It gives something else than a dict of tensors.
    """
    with _noted(injector, site):
        state = injector.prepare(signal)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise MsdmError(
            f"{title(site, injector, 'injector at site')} prepares {type(state).__name__}; `prepare` returns "
            f"a dict of tensors: mend its plugin"
        )
    return state


def inject(
    injector: Injector, site: str, h: Tensor, state: State, scale: Tensor | None, shift: Tensor | None
) -> Tensor:
    """What an injector makes of features, its form checked.

    What it raises passes as it is, with a note that `explained` reads: graphs and checkpointing on the way
    live on the types of exceptions.

    Raises
    ------
    MsdmError
        It returns another shape than it was given, or on another device.
    """
    with _noted(injector, site):
        out = injector.inject(h, state, scale, shift)
    if not isinstance(out, Tensor) or out.shape != h.shape or out.device != h.device:
        form = f"{tuple(out.shape)} on {out.device}" if isinstance(out, Tensor) else type(out).__name__
        raise MsdmError(
            f"{title(site, injector, 'injector at site')} makes {form} of features {tuple(h.shape)} on "
            f"{h.device}; `inject` keeps both: mend its plugin"
        )
    if out.dtype == torch.float16:
        raise MsdmError(
            f"{title(site, injector, 'injector at site')} makes {out.dtype}, whose numbers end at 65504; "
            f"`inject` gives float32 or bfloat16: mend its plugin"
        )
    return out


class _noted:
    """Puts a note with the injector's name on what it raises. A class: it stands in the innermost loop."""

    __slots__ = ("injector", "site")

    def __init__(self, injector: Injector, site: str) -> None:
        self.injector, self.site = injector, site

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _MISTAKES) and not out_of_memory(error):
            error.add_note(f"{_NOTE}{title(self.site, self.injector, 'injector at site')} fails")


@contextmanager
def explained() -> Iterator[None]:
    """Turn an exception that an injector raised into an MsdmError that names it."""
    try:
        yield
    except _MISTAKES as error:
        named = [note for note in getattr(error, "__notes__", ()) if note.startswith(_NOTE)]
        if not named:
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise MsdmError(f"{named[0].removeprefix(_NOTE)}: {text}; mend or update its plugin") from error


def not_finite(signals: Mapping[str, Signal]) -> list[str]:
    """The conditions whose numbers are not all finite; it waits for the device."""
    return [name for name, signal in signals.items() if not bool(torch.isfinite(signal.data).all())]


def unpaintable(where: str, signals: Mapping[str, Signal], parts: Mapping[str, Conditioner]) -> NoReturn:
    """Say why an image that was painted has numbers that are not finite.

    Parameters
    ----------
    where : str
        What was painted, such as ``fields a, b``.
    signals : mapping name -> Signal
        The conditions that it was painted from.
    parts : mapping name -> Conditioner

    Raises
    ------
    MsdmError
        Always; it names the first condition that is not finite, if one is.
    """
    for name in not_finite(signals):
        raise MsdmError(
            f"{title(name, parts[name])} encodes numbers that are not finite, on {where}; look at what is "
            f"there, or mend its plugin"
        )
    raise MsdmError(
        f"what was painted of {where} is not finite; use --precision fp32, another solver or more steps, or "
        f"an earlier checkpoint"
    )


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise `_Overdue` in the code under it after so many seconds, where signals can do that."""
    able = hasattr(unix, "setitimer") and threading.current_thread() is threading.main_thread()
    if not able or unix.getsignal(unix.SIGALRM) is not unix.SIG_DFL:
        yield
        return
    began = time.monotonic()

    def ring(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - began >= seconds:
            raise _Overdue

    unix.signal(unix.SIGALRM, ring)
    # again and again: a first ring may fall into a place where Python swallows exceptions, such as __del__
    unix.setitimer(unix.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        unix.setitimer(unix.ITIMER_REAL, 0)
        unix.signal(unix.SIGALRM, unix.SIG_DFL)
