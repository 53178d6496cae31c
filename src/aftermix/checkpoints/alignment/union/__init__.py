"""Models with the tokens of all of them: rows by token, means for those that a model lacks, one tokenizer."""
