"""The metric of the study's lm-eval tasks: minus the bits per byte of a window, so that higher is better."""

import math


def process_results(doc, results):
    """`ll / (ln 2 * bytes)` of the window's log-likelihood."""
    ((log_likelihood, _),) = results
    return {"neg_bits": log_likelihood / math.log(2) / len(doc["text"].encode())}
