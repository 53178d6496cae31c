"""The tables of the OBIM paper, re-tested: methods, parts, calibration, order, number of models, cost."""
