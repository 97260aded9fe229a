"""The one exception that stands for a mistake of the user's."""

import difflib
import errno
from collections.abc import Iterable

LONGEST = 2000
"""Characters of a message; what a file names may be of any length."""


class MsdmError(Exception):
    """A mistake that the user can mend.

    The message says what arrived, what is legal and what to do, in one line. The command line prints it
    without a traceback and exits with status 2.

    Whatever a file put into it, the text is one line of at most 2000 characters, and holds no control
    characters, which a terminal would obey.

    Examples
    --------
    >>> str(MsdmError("two\\nlines, \\x1b[31mred"))
    'two lines, �[31mred'
    """

    def __str__(self) -> str:
        line = " ".join(super().__str__().split())
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 3 :]}"
        return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


class SaidElsewhere(MsdmError):
    """A mistake that another process of the same job tells the user: the command line ends without a word."""


_FULL = (
    "can't allocate memory",
    "bad_alloc",
    "could not create a primitive",
    "out of memory",
    "_ALLOC_FAILED",
)
"""What a RuntimeError says where memory ran out: torch on a CPU, C++, oneDNN, CUDA, its libraries."""
_UNLOADED = ("failed to map segment", "cannot allocate memory")
"""What the system says of a library that no memory is left for."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on whichever device and by whomever.

    Examples
    --------
    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("CUDA error: out of memory"))
    (True, True)
    >>> out_of_memory(RuntimeError("shapes do not fit"))
    False
    """
    if isinstance(error, MsdmError):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's
        return True
    # a library that is loaded late
    if isinstance(error, ImportError):
        return any(words in str(error) for words in _UNLOADED)
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)


def did_you_mean(word: str, legal: Iterable[str]) -> str:
    """The tail of an error message: a close match where there is one, and the legal words.

    Parameters
    ----------
    word : str
        What arrived.
    legal : iterable of str
        What is legal.

    Returns
    -------
    str

    Examples
    --------
    >>> did_you_mean("spad", ["spade", "film"])
    "did you mean 'spade'? legal: film, spade"
    """
    words = sorted(legal)
    close = difflib.get_close_matches(word, words, n=1)
    close = close or [w for w in words if w and word and (word.startswith(w) or w.startswith(word))]
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}legal: {', '.join(words) or '(none)'}"
