"""Run folders made without a model, for the tests of this room."""

from support.report_runs import edit_json, make_run

__all__ = ["edit_json", "make_run"]
