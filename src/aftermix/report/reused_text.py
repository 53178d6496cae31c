"""Merges of an earlier run that were scored on further tasks, in a sentence for terminal and page."""

from __future__ import annotations

from aftermix.runs.records import ReusedRecord


def compose_reused(record: ReusedRecord | None) -> str:
    """Sentence on merges of an earlier run that were scored in part; empty where there are none.

    >>> compose_reused(ReusedRecord(merges=40, failed=1, tasks=("gsm8k", "mbpp"), tokens=81920))
    '40 merges of an earlier run were scored on gsm8k and mbpp alone (81,920 tokens); 1 failed and is left out.'
    """
    if record is None:
        return ""
    merges = "1 merge of an earlier run was" if record.merges == 1 else f"{record.merges} merges of an earlier run were"
    failed = f"; {record.failed} failed and {'is' if record.failed == 1 else 'are'} left out" if record.failed else ""
    return f"{merges} scored on {' and '.join(record.tasks)} alone ({record.tokens:,} tokens){failed}."
