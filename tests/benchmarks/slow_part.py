"""A part that leaves a row, starts a process, and stays: `python -m tests.benchmarks.slow_part SPEC ANSWER`."""

import json
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    child = subprocess.Popen(["sleep", "60"])
    Path(sys.argv[2]).write_text(json.dumps({"child": child.pid}) + "\n")
    if json.loads(sys.argv[1])["part"] == "fails":
        child.kill()
        sys.exit(3)
    time.sleep(60)
