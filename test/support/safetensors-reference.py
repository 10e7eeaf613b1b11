"""Reads safetensors files with the reference implementation, for test/checkpoint/reference.test.ts.

Each line of the input is a path; each line of the output is JSON: null for a file that is refused, else its tensors and
its metadata.
"""

import json
import sys

import safetensors


for line in sys.stdin:
    path = line.rstrip("\n")
    try:
        with open(path, "rb") as file:
            tensors = safetensors.deserialize(file.read())
        with safetensors.safe_open(path, framework="np") as opened:
            metadata = opened.metadata()
        answer = {
            "tensors": {name: [t["dtype"], t["shape"], bytes(t["data"]).hex()] for name, t in tensors},
            "metadata": metadata or {},
        }
    except safetensors.SafetensorError:
        answer = None
    print(json.dumps(answer), flush=True)
