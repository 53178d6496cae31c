"""A mixture run in a process of its own that dies at a chosen `fsync`: `python -c KILLED FILE RUN NUMBER`."""

KILLED = """
import os, signal, sys
from pathlib import Path
from aftermix import files
from aftermix.config import load_config
from aftermix.jobs.mixture.command import mixture

real_sync, left = os.fsync, int(sys.argv[3])

def sync(handle):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    real_sync(handle)

files.os.fsync = sync
mixture(load_config(Path(sys.argv[1])), Path(sys.argv[2]), resume=Path(sys.argv[2]).exists())
"""
