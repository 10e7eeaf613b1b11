#!/usr/bin/env python3
"""PyTorch as a contender of `npm run bench:rows`: a loop over adapters as in PEFT, and a gather of A and B.

It reads requests and writes replies as lines of JSON; bench/rows/protocol.ts describes them. `--threads N` sets the number
of threads.
"""
import argparse
import json
import math
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "peers"))
from adapters import filled, lily, lora, rows_gather, rows_loop
from pytorch_peer import COMPARED, blas, reason_of, sample, send

# A gather of more would take more memory than most machines have.
MOST_GATHERED = 2**30


def parameter(shape, scale, begin):
    count = math.prod(shape)
    return filled((begin + count,), scale, torch.float32, "cpu")[begin:].clone().view(shape)


def lily_by_token(x, y, a, router, b):
    """Lily with weights of the experts for each token."""
    hidden = torch.nn.functional.linear(x, a)
    weights = torch.softmax(torch.nn.functional.linear(hidden, router), dim=-1)
    return y + torch.einsum("te,ti,eio->to", weights, hidden, b)


def open_problem(problem, of):
    tokens, d, rank = problem["sequences"] * problem["length"], problem["d"], problem["rank"]
    x, y = filled((tokens, d), 1, torch.float32, "cpu"), torch.zeros(tokens, d)
    of = torch.tensor(of).repeat_interleave(problem["length"])
    adapters = []
    for k in range(problem["adapters"]):
        begin = 1009 * k  # firstNumber and SCALES of protocol.ts
        a = parameter((rank, d), d**-0.5, begin)
        if problem["adapter"] == "lora":
            adapters.append((lora, (a, parameter((d, rank), 0.02, begin))))
        else:
            router = parameter((problem["experts"], rank), rank**-0.5, begin)
            b = parameter((problem["experts"], rank, d), 0.02, begin)
            adapters.append((lily if problem["adapter"] == "lily" else lily_by_token, (a, router, b)))
    functions = [lambda x, y, f=function, p=parameters: f(x, y, *p) for function, parameters in adapters]
    runs = {"loop": lambda: rows_loop(x, y, of, functions)}
    if problem["adapter"] == "lora" and 4 * 2 * tokens * rank * d <= MOST_GATHERED:
        a, b = (torch.stack([parameters[i] for _, parameters in adapters]) for i in (0, 1))
        runs["gather"] = lambda: rows_gather(x, y, of, a, b)
    return y, runs


def outputs_of(y, run):
    y.zero_()
    run()
    flat = y.reshape(-1)
    return {"y": flat[:: -(-len(flat) // COMPARED)].tolist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, required=True)
    torch.set_num_threads(parser.parse_args().threads)
    versions = {"PyTorch": torch.__version__, "BLAS": blas(), "PyTorch's kernels": torch.backends.cpu.get_cpu_capability()}
    send({"versions": versions, "methods": [], "missing": []})
    y, runs = None, {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            with torch.inference_mode():
                if request["request"] == "open":
                    y, runs = open_problem(request["problem"], request["of"])
                    send({"methods": list(runs)})
                elif request["request"] == "outputs":
                    send({"outputs": outputs_of(y, runs[request["method"]])})
                else:
                    opened = {"runs": {"run": runs[request["method"]]}, "operands": ()}
                    send({"seconds": sample(opened, "run", request["warmup"], request["calls"])})
        except Exception as error:  # the contender can go on
            send({"error": reason_of(error)})


if __name__ == "__main__":
    main()
