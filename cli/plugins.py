"""`msdm-kit plugins`."""


def plugins() -> None:
    """List the plugins of every kind.

    What is left out is marked with the reason.
    """
    from ..plugins.host import get_host
    from .console import output, plain_table

    console = output()
    table = plain_table("kind", "name", "summary", "package", "version", "state")
    for row in get_host().listing():
        style = None if row.state == "ok" else "yellow" if row.state == "blocked" else "red"
        package = (row.package, row.version)
        table.add_row(row.kind, row.name, row.summary, *package, row.state, style=style)
    console.print(table)
