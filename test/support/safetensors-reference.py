"""Reads safetensors files with the reference implementation, for test/checkpoint/reference.test.ts.

Each line of the input is a path; each line of the output is JSON: null for a file that is refused, else its tensors and
its metadata.
"""

import json
import sys

import safetensors


def has_key_twice(file: bytes) -> bool:
    """Whether any object of the header has one, of which the reference takes the last, and checks no other."""
    twice = False

    def check(pairs: list) -> dict:
        nonlocal twice
        twice = twice or len({key for key, _ in pairs}) < len(pairs)
        return dict(pairs)

    json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")], object_pairs_hook=check)
    return twice


for line in sys.stdin:
    path = line.rstrip("\n")
    try:
        with open(path, "rb") as file:
            content = file.read()
        tensors = safetensors.deserialize(content)
        with safetensors.safe_open(path, framework="np") as opened:
            metadata = opened.metadata()
        answer = {
            "tensors": {name: [t["dtype"], t["shape"], bytes(t["data"]).hex()] for name, t in tensors},
            "metadata": metadata or {},
            "has_key_twice": has_key_twice(content),
        }
    except safetensors.SafetensorError:
        answer = None
    print(json.dumps(answer), flush=True)
