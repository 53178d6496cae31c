"""One self-contained HTML file from a run folder; nothing else is read."""
