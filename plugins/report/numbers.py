"""Values as a reader sees them."""

import math
from collections.abc import Mapping
from typing import Any

DASH = "–"
"""Stands for what is not known: None and NaN."""


def plain(value: Any) -> Any:
    """The Python number of a NumPy or PyTorch scalar; anything else as it is."""
    if isinstance(value, str | bytes | Mapping | list | tuple):
        return value
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", 0) == 0 else value


def is_number(value: Any) -> bool:
    """Whether it is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def four_digits(value: float) -> str:
    """A number with four significant digits, NaN as a dash.

    Written out from 0.0001 to ten millions, and with a power of ten otherwise.

    Examples
    --------
    >>> four_digits(0.123456), four_digits(0.5), four_digits(123456.0), four_digits(1.5e-9)
    ('0.1235', '0.5000', '123500', '1.500e-09')
    """
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    scientific = f"{value:.3e}"
    # of the rounded value: 9999.96 has five digits before the point
    rounded = float(scientific)
    if not 1e-4 <= abs(rounded) < 1e7:
        return scientific
    return f"{rounded:.{max(0, 3 - math.floor(math.log10(abs(rounded))))}f}"


def cell(value: Any) -> str:
    """A value of a table: floats with four significant digits, None and NaN as a dash.

    Parameters
    ----------
    value : str, int, float, bool, None or NumPy scalar
    """
    value = plain(value)
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    return four_digits(value) if isinstance(value, float) else str(value)


def settings_rows(values: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested settings, one row per value: its path with dots, and the value in full.

    Examples
    --------
    >>> settings_rows({"train": {"lr": 0.00012345, "betas": [0.9, 0.99]}, "seed": None})
    [('train.lr', '0.00012345'), ('train.betas', '0.9, 0.99'), ('seed', '–')]
    """
    values = sorted(values) if isinstance(values, set | frozenset) else plain(values)
    if isinstance(values, Mapping) and (values or not path):
        return [row for key, value in values.items() for row in settings_rows(value, _join(path, str(key)))]
    if isinstance(values, list | tuple):
        if any(isinstance(plain(value), Mapping | list | tuple) for value in values):
            numbered = enumerate(values)
            return [row for i, value in numbered for row in settings_rows(value, _join(path, str(i)))]
        return [(path, ", ".join(_exact(value) for value in values) or DASH)]
    return [(path, _exact(values))]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _exact(value: Any) -> str:
    value = plain(value)
    if value is None or value == {}:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    # a setting that is rounded cannot be set again
    return repr(value) if isinstance(value, float) else str(value)
