"""The package as a whole: light to import, complete, and nothing of a machine in it."""

import json
import subprocess
import sys

import labelwise


def test_importing_labelwise_loads_nothing_heavy():
    heavy = ["torch", "numpy", "sklearn", "scipy", "matplotlib", "pyarrow", "pandas", "typer"]
    code = (
        "import json, sys, labelwise\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\n"
        "from labelwise.cli import main\n"
        "sys.argv = ['labelwise', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_every_public_name_is_there():
    for name in labelwise._HOME:
        assert getattr(labelwise, name) is not None
        assert name in dir(labelwise)
