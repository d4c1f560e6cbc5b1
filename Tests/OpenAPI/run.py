#!/usr/bin/env python3
"""Whether the gateway does what its OpenAPI description says, and nothing else.

    Tests/OpenAPI/run.py --gateway .build/debug/webllm-gateway [--seed N] [--examples N]

Every documented reply of every operation is provoked and validated; then schemathesis asks what it likes. Where the
validators cannot be fetched from PyPI, the test is skipped.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "Sources/GatewayServer/Pages/openapi.json"
VENV = ROOT / ".venv"
REQUIREMENTS = {"jsonschema==4.26.0", "openapi-spec-validator==0.9.0", "schemathesis==4.32.5"}
FUZZ_SECONDS = 80  # for one listener


def enter_venv():
    """Goes on in the virtual environment that has the validators, which is made on the first run."""
    python = VENV / "bin/python"
    if pathlib.Path(sys.prefix) == VENV:
        return
    freeze = [python, "-m", "pip", "freeze"]
    if not python.exists() or subprocess.run(freeze, capture_output=True, check=False).returncode != 0:
        venv.create(VENV, clear=True, with_pip=True)
    if not REQUIREMENTS <= set(subprocess.run(freeze, capture_output=True, text=True, check=True).stdout.split()):
        install = [python, "-m", "pip", "install", "--quiet", *sorted(REQUIREMENTS)]
        if subprocess.run(install, check=False).returncode != 0:
            print("openapi: skipped: the validators cannot be fetched from PyPI")
            sys.exit(0)
    os.execv(python, [python, *sys.argv])


def fuzz(port, choice, options, folder):
    command = [
        VENV / "bin/schemathesis", "--config-file", ROOT / "Tests/OpenAPI/schemathesis.toml", "--no-color", "run",
        DOCUMENT, "--url", f"http://127.0.0.1:{port}", *choice, "--seed", str(options.seed),
        "--max-examples", str(options.examples)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(ROOT / "Tests/OpenAPI")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=FUZZ_SECONDS, check=False)
    if done.returncode != 0:
        print(done.stdout)
        raise AssertionError(f"schemathesis at port {port} with seed {options.seed}: see above")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateway", required=True)
    parser.add_argument("--seed", type=int, default=20260, help="of schemathesis")
    parser.add_argument("--examples", type=int, default=25, help="that schemathesis makes for each operation")
    options = parser.parse_args()
    enter_venv()

    import replies
    from document import Document
    from openapi_spec_validator import validate
    from upstream import Upstream

    text = DOCUMENT.read_text()
    document = Document(text)
    validate(document.value)
    document.check_examples()
    print(f"openapi: valid, {len(document.operations)} operations; seed {options.seed}", flush=True)

    upstream = Upstream()
    with tempfile.TemporaryDirectory() as folder:
        failed = replies.check_all(document, text, options.gateway, upstream.port, folder)
        with replies.Gateway(options.gateway, f"{folder}/fuzz.conf", upstream.port, slots=8) as gateway:
            client = ["--exclude-tag", "Operators", "--exclude-path-regex", "^/(dashboard.*)?$"]
            # Last, as it takes upstreams out.
            operators = ["--include-path-regex", "^/($|admin/|dashboard|healthz|readyz|metrics)"]
            for listener, choice in (("client", client), ("admin", operators)):
                try:
                    fuzz(gateway.ports[listener], choice, options, folder)
                    gateway.check_lives()
                    print(f"ok fuzz_the_{listener}_listener", flush=True)
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    failed += 1
                    print(f"FAILED fuzz_the_{listener}_listener: {error}", flush=True)
    upstream.close()
    print(f"openapi: {failed} failed" if failed else "openapi: the gateway does what its description says")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
