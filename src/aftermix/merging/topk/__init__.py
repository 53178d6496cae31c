"""The k best entries: by magnitude, by score, in rows, and over a whole model."""
