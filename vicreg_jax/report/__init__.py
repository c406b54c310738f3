"""Building blocks of `report.html`: one page that needs no network, no script and no other file."""

from vicreg_jax.report.accuracies import accuracy_table, facts
from vicreg_jax.report.chart import line_chart, number, overlay_chart
from vicreg_jax.report.comparison import RunResults, render_comparison
from vicreg_jax.report.curves import all_captions, chart_grid, charts, figure, metric_figures
from vicreg_jax.report.datasets import dataset_table
from vicreg_jax.report.grids import NeighborGrid, ViewGrid
from vicreg_jax.report.label_free import LABEL_FREE, label_free_facts
from vicreg_jax.report.page import render_page, write_page
from vicreg_jax.report.pictures import image_element, image_rows, mosaic_element, neighbor_pictures, view_pictures

__all__ = [
    "LABEL_FREE",
    "NeighborGrid",
    "RunResults",
    "ViewGrid",
    "accuracy_table",
    "all_captions",
    "chart_grid",
    "charts",
    "dataset_table",
    "facts",
    "figure",
    "image_element",
    "image_rows",
    "label_free_facts",
    "line_chart",
    "metric_figures",
    "mosaic_element",
    "neighbor_pictures",
    "number",
    "overlay_chart",
    "render_comparison",
    "render_page",
    "view_pictures",
    "write_page",
]
