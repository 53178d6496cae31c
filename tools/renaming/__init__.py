"""Parts of the scripts that rename: rows, sketches of files, facts of types, the plan of edits."""
