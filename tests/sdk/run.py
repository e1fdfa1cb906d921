"""Runs the tests of this folder, a file in a process of its own each, side by side: they mostly wait for
streams. `make test-sdk` calls it. A name as argument runs that file alone: `run.py test_sums.py`.
"""

import subprocess
import sys
import time
from pathlib import Path

FILES = sys.argv[1:] or [
    "test_openai.py", "test_metered.py", "test_retries.py", "test_retries_node.py", "test_vercel.py",
    "test_sums.py",
]


def main():
    began = time.monotonic()
    running = {
        name: subprocess.Popen(
            [sys.executable, Path(__file__).with_name(name)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in FILES
    }
    failed = []
    for name, process in running.items():
        said, _ = process.communicate()
        print(f"== {name}\n{said}", flush=True)
        if process.returncode != 0:
            failed.append(name)
    print(f"{len(FILES)} files in {time.monotonic() - began:.0f} s; failed: {failed or 'none'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
