#!/usr/bin/env python3
"""Tests of the pages: headless Chromium on the real gateway, with an upstream that the tests script.

    Tests/Page/run.py --gateway .build/debug/webllm-gateway [--screenshots DIR] [--only WORD]
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time
import traceback
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
REQUIREMENT = "playwright==1.65.2"  # drives the installed Chromium; its own browsers are not downloaded
WHOLE_RUN = 420  # seconds


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", default=ROOT / ".build/debug/webllm-gateway", type=pathlib.Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--screenshots", type=pathlib.Path, help="folder for pictures of the page")
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parsed = parser.parse_args()
    parsed.gateway = parsed.gateway.resolve()
    if not os.access(parsed.gateway, os.X_OK):
        parser.error(f"no gateway at {parsed.gateway}; build it first: swift build")
    return parsed


def enter_venv():
    """Goes on in the virtual environment that has the browser driver, which is made on the first run."""
    python = VENV / "bin/python"
    if pathlib.Path(sys.prefix) == VENV:
        return
    freeze = [python, "-m", "pip", "freeze"]
    if not python.exists() or subprocess.run(freeze, capture_output=True).returncode != 0:
        venv.create(VENV, clear=True, with_pip=True)
    if REQUIREMENT not in subprocess.run(freeze, capture_output=True, text=True).stdout.split():
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--retries", "10", REQUIREMENT], check=True)
    os.execv(python, [python, *sys.argv])


def summary(passed, failed, skipped):
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


def main():
    options = arguments()
    if shutil.which(options.chromium) is None:
        print(f"skipped: no Chromium at {options.chromium} (Debian: apt-get install chromium)")
        summary(0, 0, 1)
    enter_venv()

    import answers  # noqa: F401, they add their cases to the list
    import dashboard  # noqa: F401
    import dashboard_faults  # noqa: F401
    import page  # noqa: F401
    from browser import ALL, Bench

    chosen = [case for case in ALL if options.only in case.__name__]
    if not chosen:
        sys.exit(f"no case has {options.only!r} in its name")
    passed = failed = 0
    deadline = time.monotonic() + WHOLE_RUN
    with Bench(options.gateway, options.chromium, options.screenshots) as bench:
        for case in chosen:
            started = time.monotonic()
            try:
                assert started < deadline, f"not run: the whole run has {WHOLE_RUN} s"
                with bench.case():
                    case(bench)
            except Exception as error:  # whatever it is, it is this case's failure
                failed += 1
                print(f"FAIL  {case.__name__}: {error}")
                if not isinstance(error, AssertionError):
                    traceback.print_exc()
            else:
                passed += 1
                print(f"ok    {case.__name__} ({time.monotonic() - started:.1f} s)")
            sys.stdout.flush()
    summary(passed, failed, 0)


if __name__ == "__main__":
    main()
