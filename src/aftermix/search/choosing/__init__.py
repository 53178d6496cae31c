"""Finalists settled on select items: the rounds that they are measured in, and the test that drops them."""
