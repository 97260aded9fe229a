"""The one exception that stands for a mistake of the user's."""

import difflib
from collections.abc import Iterable


class MsdmError(Exception):
    """A mistake that the user can mend.

    The message says what arrived, what is legal and what to do, in one line. The command line prints it
    without a traceback and exits with status 2.
    """


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
