"""`python -m aftermix`, for launchers that start a module: `accelerate launch -m aftermix train ...`."""

from __future__ import annotations

from aftermix.cli import main

if __name__ == "__main__":
    main()
