"""Tasks whose answer is written: the model goes on with a text, and its first characters must be the true ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

BEGINNINGS = {"ja": r"\s*\S", "zh": r"\s*\S", "math": r"\s*\S+", "code": r"\s*(?:\w{1,3}|\S)"}
"""By domain, what of the true continuation is the answer, long enough to be missed and short enough to be met by the
demo's base: one character, one word, or three letters."""

TASK = """\
task: write_{domain}
dataset_path: json
dataset_kwargs:
  data_files: {{test: write_{domain}.jsonl}}  # relative to this file
test_split: test
output_type: generate_until
doc_to_text: "Continue: {{{{context}}}}"
target_delimiter: ""  # an answer brings its own space
doc_to_target: answer
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
filter_list:
  - name: beginning
    filter:
      - {{function: regex, regex_pattern: '^{pattern}'}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, regexes_to_ignore: ['^\\s+']}}
metadata: {{version: 1.0}}
"""


def write_generated_tasks(source: Path, folder: Path, domain: str) -> str:
    """Write the task of one domain and its rows, from the demo's choices between continuations; the task's name.

    Rows whose true continuation does not begin as an answer does (on a new line, say) are left out.
    """
    rows = [json.loads(line) for line in (source / f"continue_{domain}.jsonl").read_text("utf-8").splitlines()]
    kept = []
    for row in rows:
        found = re.match(BEGINNINGS[domain], row["choices"][row["answer"]])
        if found and "\n" not in found[0]:
            kept.append(json.dumps({"context": row["context"], "answer": found[0]}, ensure_ascii=False))

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"write_{domain}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    text = TASK.format(domain=domain, pattern=BEGINNINGS[domain])
    (folder / f"write_{domain}.yaml").write_text(text, encoding="utf-8")
    return f"write_{domain}"
