"""What a run log says: analysis, plots, report, live view."""
