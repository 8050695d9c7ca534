"""Compare strategies: their runs, what is measured of each, statistics, the recommendation, the page."""
