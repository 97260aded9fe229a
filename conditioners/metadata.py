"""Columns of the manifest, read by name, and templates over them."""

from collections.abc import Iterable, Mapping, Sequence
from string import Formatter

from ..core.errors import MsdmError, did_you_mean
from ..core.sample import Sample


def require_columns(rows: Sequence[Mapping[str, str]], columns: Iterable[str], *, reader: str) -> None:
    """Check that every row has the columns.

    Parameters
    ----------
    rows : sequence of mapping column -> str
        The manifest's rows of the training split.
    columns : iterable of str
        What is read.
    reader : str
        Who reads, for the message.

    Raises
    ------
    MsdmError
        There are no rows, or a column is missing.
    """
    if not rows:
        raise MsdmError(f"{reader} learns from the training split, which has no rows; check the manifest")
    common = set(rows[0]).intersection(*rows[1:])
    for column in columns:
        if column not in common:
            raise MsdmError(
                f"{reader}: the manifest has no column {column!r}; {did_you_mean(column, common)}"
            )


def read_column(sample: Sample, column: str) -> str:
    """A sample's value in a column.

    Raises
    ------
    MsdmError
        The sample has no such column.
    """
    if column not in sample.metadata:
        raise MsdmError(
            f"sample {sample.id!r} has no metadata {column!r}; {did_you_mean(column, sample.metadata)}"
        )
    return sample.metadata[column]


def parse_template(template: str) -> list[tuple[str, str | None]]:
    """The pieces of a template: literal text, and the column that follows it, if any.

    Only plain names are columns. What `str.format` would do beyond that (attributes, indices, conversions,
    format specifications) is refused: a recipe is data, not code.

    Raises
    ------
    ValueError
        The template is malformed or names no column.

    Examples
    --------
    >>> parse_template("{assay} of {indication}")
    [('', 'assay'), (' of ', 'indication')]
    """
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}") from None
    for _, name, spec, conversion in pieces:
        if name is None:
            continue
        if spec or conversion or not name.strip() or name.isdigit() or set(name) & set(".[]{}"):
            tail = f"!{conversion}" if conversion else ""
            tail += f":{spec}" if spec else ""
            raise ValueError(
                f"template {template!r}: {{{name}{tail}}} is no column; write a plain column name in braces"
            )
    if all(name is None for _, name, _, _ in pieces):
        raise ValueError(f"template {template!r} names no column; write one in braces, such as {{assay}}")
    return [(literal, name) for literal, name, _, _ in pieces]
