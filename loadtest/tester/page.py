"""The report as files: one HTML page that needs nothing else, and its data as JSON beside it."""

from pathlib import Path

from loadtest.tester.report import Report


def write_report(report: Report, file: Path) -> Path:
    """Write both; returns the page."""
    page = file.with_suffix(".html")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.with_suffix(".json").write_text(report.model_dump_json(indent=1))
    return page
