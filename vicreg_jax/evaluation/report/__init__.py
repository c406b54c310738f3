"""`report.html`: a run in one page that needs no network, no script and no other file."""

from vicreg_jax.evaluation.report.content import NeighbourGrid, ReportContent, ViewGrid
from vicreg_jax.evaluation.report.page import render_report, write_report

__all__ = ["NeighbourGrid", "ReportContent", "ViewGrid", "render_report", "write_report"]
