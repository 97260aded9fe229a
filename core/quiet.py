"""Libraries that print lines of their own about files that are damaged."""

import logging
import warnings

_LOGGERS = ("PIL", "roifile", "tifffile")
_WARNERS = r"(PIL|roifile|tifffile|torch\._weights_only_unpickler|torch\.serialization)(\.|$)"


def quiet_libraries() -> None:
    """Leave out, in this process from now on, what libraries say of a damaged file beside what they raise.

    The readers here say it in one line, with the file's name.
    """
    for name in _LOGGERS:
        # a logger without any handler prints
        logging.getLogger(name).addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", module=_WARNERS)
