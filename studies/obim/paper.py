"""The averages that the OBIM paper prints, by row."""

METHODS_A = {
    "OBIM": 45.23,
    "PCB": 43.37,
    "TALL-mask": 43.23,
    "TIES": 43.21,
    "DELLA": 42.87,
    "DARE": 42.83,
    "Task Arithmetic": 41.07,
}
"""Table 1: LM, Math and Code models of Llama-2-13B."""
METHODS_B = {
    "base": 73.97,
    "ckpt-1": 72.28,
    "ckpt-2": 71.41,
    "ckpt-3": 70.95,
    "OBIM": 74.16,
    "DARE": 73.01,
    "PCB": 72.70,
    "DELLA": 72.61,
    "TALL-mask": 72.59,
    "Task Arithmetic": 72.17,
    "TIES": 72.12,
}
"""Table 2: Qwen2-7B and three checkpoints of its training on Japanese, Chinese and English."""
PARTS = {"OBIM": 45.23, "TIES+IM": 44.77, "TIES+OBM": 44.32, "TIES": 43.21}
"""Table 3."""
SOURCES = {"own": 40.37, "mixed": 40.22, "other": 39.66}
"""Table 4: text for the Math model's saliency, average of GSM8K and MATH."""
SAMPLES = {"10": 40.13, "50": 39.64, "100": 40.37, "200": 39.99}
"""Table 5."""
ORDERS = {"first": 40.93, "rotation": 39.53, "last": 31.89}
"""Table 6: place of the Math model, average of GSM8K and MATH. With another model first: 33.15."""
COUNTS = {
    "OBIM": {2: 74.38, 3: 74.03, 4: 74.16, 5: 73.69, 6: 73.76},
    "DARE": {2: 74.09, 3: 73.44, 4: 73.01, 5: 73.03, 6: 72.98},
}
"""Table 10: average over three languages by number of models, the base among them."""
COST = ((3, "13B", "2 x A800", "0.40", "50", "123"), (6, "7B", "1 x A800", "0.36", "20", "121"))
"""Table 11: models, size, GPUs, seconds a sample, seconds of saliency, seconds of merging."""
