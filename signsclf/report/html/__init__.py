"""A report as one HTML page that needs nothing else: pictures inside, no script, light, dark and on paper."""

from __future__ import annotations

from signsclf.metrics.findings import Findings
from signsclf.report.html import performance, trust
from signsclf.report.html.elements import page, paragraph, text
from signsclf.report.html.subject import Reference, ReportContext

__all__ = ["Reference", "Subject", "render"]


def render(found: Findings, subject: ReportContext) -> str:
    """The whole page."""
    sections = [
        ("Classes", performance.classes(found)),
        ("Confusion", performance.confusion(found, subject)),
        ("Mistakes", performance.mistakes(found, subject)),
        ("Confidence", trust.confidence(found)),
        ("Robustness", trust.robustness(found, subject)),
        ("Unknown pictures", trust.unknown(found, subject)),
        ("Labels", trust.labels(found, subject)),
    ]
    written = [(name, list(parts)) for name, parts in sections]
    written = [(name, parts) for name, parts in written if parts]
    body = [
        f"<h1>{text(subject.title)}</h1>",
        paragraph(subject.about, "soft"),
        "<nav>" + "".join(f'<a href="#{_anchor(name)}">{text(name)}</a>' for name, _ in written) + "</nav>",
        *(paragraph(words, "warn") for words in subject.cautions),
        *performance.headline(found, subject),
    ]
    for name, parts in written:
        body += [f'<h2 id="{_anchor(name)}">{text(name)}</h2>', *parts]
    return page(subject.title, body, subject.footer)


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")
