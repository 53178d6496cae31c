"""Two versions run one list of commands, and what they write and say is compared byte for byte.

    python tools/same_bytes.py OLD NEW [--skip demo] [--only NAME ...] [--reuse-old] [--scratch FOLDER]
    python tools/same_bytes.py --list

OLD and NEW are commits, or folders with a checkout. Each is laid in turn at the same absolute path and run by this
interpreter, on one thread, without network. Seconds, rates, dates and the version are null (the rules stand in
`tools/byte_net/volatile.py`). The exit code is 0 when every scenario is the same.
"""

from byte_net.table import main

if __name__ == "__main__":
    main()
