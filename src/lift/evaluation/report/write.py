"""Writes report.md and report.html beside the files of a run."""

from __future__ import annotations

from pathlib import Path

from lift.evaluation.report.html_report import html_report
from lift.evaluation.report.markdown_report import markdown_report
from lift.evaluation.report.report_content import build_content
from lift.evaluation.report.suite_figures import suite_figures
from lift.evaluation.run_files import RunData, write_text

MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"


def write_report(run: RunData) -> tuple[Path, Path]:
    """Put report.md and report.html into the run's directory, each in place of what was there, whole or not at all.

    Raises UsageError where the figures need a package that is missing; report.md is there by then.
    """
    content = build_content(run)
    markdown, page = run.directory / MARKDOWN_FILE, run.directory / HTML_FILE
    write_text(markdown, markdown_report(content))
    figures = {section.anchor: suite_figures(run, section) for section in content.suites}
    write_text(page, html_report(content, figures, run.results))
    return markdown, page
