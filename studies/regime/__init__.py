"""Ways to train and to merge that are kept or dropped by one rule, on two small worlds."""
