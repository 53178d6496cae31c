"""A mixture in the files and units of other trainers: one file a consumer, each a function from a plan to texts."""
