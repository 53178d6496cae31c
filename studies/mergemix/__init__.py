"""Do merge weights stand for data ratios? Ranks, baselines, transfer, hierarchy, recalibration."""
