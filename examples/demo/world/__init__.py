"""The small real world of the demo: real text, a base trained on it, tasks on text held out from it."""
