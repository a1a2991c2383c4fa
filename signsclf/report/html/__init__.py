"""A report as one HTML page that needs nothing else: pictures inside, no script, light, dark and on paper."""

from __future__ import annotations

from signsclf.metrics.findings import Findings
from signsclf.report.html import performance, trust
from signsclf.report.html.context import Reference, ReportContext
from signsclf.report.html.page import render_template

__all__ = ["Reference", "ReportContext", "render"]

_SECTIONS = (
    ("Classes", "classes", performance.classes),
    ("Confusion", "confusion", performance.confusion),
    ("Mistakes", "mistakes", performance.mistakes),
    ("Confidence", "confidence", trust.confidence),
    ("Robustness", "robustness", trust.robustness),
    ("Out-of-distribution images", "unknown", trust.unknown),
    ("Labels", "labels", trust.labels),
)
"""Name, template, and what gives the template's values, or None where the section is left out."""


def render(found: Findings, context: ReportContext) -> str:
    """Render the whole page."""
    sections = []
    for name, template, values_of in _SECTIONS:
        if (values := values_of(found, context)) is not None:
            sections.append({"name": name, "id": template, "content": render_template(f"{template}.html", **values)})
    return render_template(
        "report.html",
        title=context.title,
        about=context.about,
        cautions=context.cautions,
        headline=render_template("headline.html", **performance.headline(found, context)),
        sections=sections,
        footer=context.footer,
    )
