"""``python -m labelwise``: the ``labelwise`` command, for launchers such as ``torchrun``."""

from labelwise.cli import main

if __name__ == "__main__":
    main()
