"""Does an optimizer that expects merging make experts that merge better? And SAM, ASAM beside it."""
