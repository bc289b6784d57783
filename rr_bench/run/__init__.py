"""Running cells, calibration and pattern search."""
