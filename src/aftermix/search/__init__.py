"""The search for merge weights: it knows weights, scores and item scores, and no model."""
