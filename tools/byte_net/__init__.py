"""The net under a refactor: one list of commands, run on two versions and compared byte for byte."""
