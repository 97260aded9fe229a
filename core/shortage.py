"""What is given up where memory runs out: first what is computed at once, then what is kept."""

import logging

_log = logging.getLogger("msdm_kit")


class Shortage:
    """How much is computed at once, and whether prepared conditions are kept; less of each after a shortage.

    Parameters
    ----------
    what : str
        Of what several are computed at once, such as ``fields``.

    Attributes
    ----------
    at_most : int or None
        At once; None as long as memory has not run out.
    frugal : bool
        Whether nothing prepared is kept.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.at_most: int | None = None
        self.frugal = False

    def at_once(self, wanted: int) -> int:
        """How many to compute where `wanted` are asked for."""
        return wanted if self.at_most is None else min(wanted, self.at_most)

    def retreat(self, count: int, *, keeps: bool) -> bool:
        """Give up something after `count` at once were too many; the log says what.

        Parameters
        ----------
        count : int
        keeps : bool
            Whether prepared conditions are kept, or may be.

        Returns
        -------
        bool
            False where nothing is left to give up.
        """
        if count > 1:
            self.at_most = count // 2
            _log.warning("out of memory with %d %s at once: going on with %d", count, self.what, self.at_most)
            return True
        if keeps and not self.frugal:
            self.frugal = True
            _log.warning(
                "out of memory: going on without what is prepared once, which is slower and changes nothing"
            )
            return True
        return False
