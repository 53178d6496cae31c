"""Charts of a report as inline SVG, and pictures of landscapes."""
