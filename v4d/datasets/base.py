"""The seam for data sets."""
