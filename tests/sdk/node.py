"""Runs a script of this folder with Node and the packages of `package.json`.

Needs in FAREBOX_SDK_NODE the folder with their node_modules.
"""

import json
import os
import subprocess
from pathlib import Path

TIMEOUT_S = 60


def run_node(script, *arguments):
    """The JSON that the script prints."""
    done = subprocess.run(
        ["node", Path(__file__).with_name(script), *arguments],
        env={**os.environ, "FAREBOX_SDK_NODE": os.path.abspath(os.environ["FAREBOX_SDK_NODE"])},
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )
    if done.returncode != 0:
        raise AssertionError(f"{script} {arguments}: {done.stderr}")
    return json.loads(done.stdout)
