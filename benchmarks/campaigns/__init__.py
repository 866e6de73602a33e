"""Long checks with committed results: kills of a running pipeline, many random canvases."""
