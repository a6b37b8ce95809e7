"""`loadtest --compare`: two reports, before and after."""

from dataclasses import asdict
from pathlib import Path

from gateway.cli.output import err, fail, out, plain, print_json


def print_comparison(before: Path, after: Path, page: str | None, *, as_json: bool) -> None:
    """Print how two reports differ. page: an HTML page to write as well."""
    # What the extra `loadtest` installs is imported here, so that the other commands go without.
    from loadtest.tester.compare import comparison, shown
    from loadtest.tester.page import write_comparison
    from loadtest.tester.report import BadReport, read_report

    try:
        both = read_report(before), read_report(after)
    except BadReport as error:
        raise fail(str(error), 2) from None
    if as_json:
        print_json([asdict(row) for row in shown(*both)])
    else:
        out.print(comparison(*both))
    if page is not None:
        err.print(plain(f"page: {write_comparison(*both, Path(page))}", "bold"))
