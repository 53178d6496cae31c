"""Machines that a job is planned for, in a file of their own."""
