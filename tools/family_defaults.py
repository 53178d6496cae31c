"""Write the table of families' defaults that `aftermix.checkpoints.alignment.families.settings` compares with.

    python tools/family_defaults.py > src/aftermix/checkpoints/alignment/families/family_defaults.json

For each family of the installed transformers: what its configuration says of the function of a model where a file says
nothing. A merge needs no transformers, so the values are kept. Left out are values that a family computes from others.
"""

from __future__ import annotations

import json
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.utils import logging

from aftermix.checkpoints.alignment.families.settings import ROPE_KEYS, is_function


def collect_defaults(family: str) -> dict[str, Any]:
    """Defaults of one family by key; rotary positions as the family's class writes them."""
    kind = CONFIG_MAPPING[family]
    values = kind().to_dict()
    kept = {
        key: value
        for key, value in values.items()
        if is_function(key) and not isinstance(value, dict | list) and not _is_derived(kind, key, value)
    }
    return kept | {key: values[key] for key in ROPE_KEYS if values.get(key) is not None}


def _is_derived(kind: Any, key: str, value: Any) -> bool:
    return value is not None and getattr(kind, key, value) is None


def main() -> None:
    """Print the table, a family a line."""
    logging.set_verbosity_error()
    lines = []
    for family in sorted(CONFIG_MAPPING_NAMES):
        try:
            defaults = collect_defaults(family)
        except Exception:  # noqa: S112 - a few families have no defaults of their own
            continue
        if defaults:
            lines.append(f"{json.dumps(family)}: {json.dumps(defaults, sort_keys=True)}")
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
