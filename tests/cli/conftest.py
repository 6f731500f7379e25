"""A command run in the process of its test."""

import pytest

from labelwise.cli import main


@pytest.fixture
def run(capfd):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return ended.value.code, captured.out, captured.err

    return call
