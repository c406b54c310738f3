"""`report.html`: a run in one page that needs no network, no script and no other file."""

from vicreg_jax.report.content import NeighborGrid, ReportContent, ViewGrid
from vicreg_jax.report.page import render_report, write_report

__all__ = ["NeighborGrid", "ReportContent", "ViewGrid", "render_report", "write_report"]
