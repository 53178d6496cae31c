"""Figures that the MergOPT paper prints, for our rows."""

GAINS = {
    "2 Task Arithmetic": (1.51, 6.12),
    "2 TIES": (1.54, 8.62),
    "4 Task Arithmetic": (3.86, 3.46),
    "4 TIES": (3.64, 2.02),
    "6 Task Arithmetic": (5.28, 2.57),
    "6 TIES": (6.78, 4.42),
    "7 averaging": (3.28, 0.64),
    "7 Task Arithmetic": (2.71, 3.56),
    "7 TIES": (1.68, 4.09),
    "7 DARE": (9.54, 2.89),
}
"""Gain of MergOPT over AdamW in the average score, in %, by number of experts and method.

Two groups of tasks each on Llama-3.2-1B (Tables 20, 3, 21); seven tasks on 1B and 3B (Tables 1, 2).
"""
MEAN_GAIN, BEST_GAIN = 3.5, 9.5
"""Over the eight cases of seven experts."""
ALONE = ((0.5254, 0.5250), (0.6057, 0.5836))
"""AdamW and MergOPT, each expert at home, on 1B and 3B (Tables 1, 2)."""
OVER_SAM = {"averaging": 2.59, "Task Arithmetic": -2.24, "TIES": -1.29, "DARE": 5.20}
"""Gain of MergOPT over SAM at equal epochs, in % (Table 4 a)."""
OVER_SAM_AT_EQUAL_TIME = {"averaging": 4.08, "Task Arithmetic": 0.70, "TIES": 0.95, "DARE": 3.98}
"""The same at about equal time (Table 4 b)."""
STEP = {"constant": 1.0, "aware": 1.17, "sam": 2.04, "asam": 2.06}
"""Time against AdamW's (Table 15)."""
MIXED = {"Task Arithmetic": (0.3994, 0.4116, 0.4238), "TIES": (0.3903, 0.4055, 0.4238)}
"""AdamW + AdamW, AdamW + MergOPT, MergOPT + MergOPT (Table 19)."""
SCALES = {"5e-4": 2.68, "1e-3": 1.58, "5e-2": 2.02}
"""Gain by scale, Task Arithmetic of seven, in % (Table 11)."""
RATES = {"half": 2.92, "1": 1.53, "double": 0.32}
"""Gain by learning rate, Task Arithmetic of two, in % (Table 24)."""
VISION = {"averaging": (54.9, 56.2), "Task Arithmetic": (66.9, 69.2), "TIES": (65.8, 68.5)}
"""Accuracy of AdamW and MergOPT, ten tasks, CLIP ViT-B/32 (Table 9)."""
