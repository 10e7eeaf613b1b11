#!/usr/bin/env python3
"""The peers in PyTorch: the forward of PEFT's Lily layer and LoRA, eager and compiled, without the base layer.

    python3 bench/peers/pytorch.py --device cuda --dtype bfloat16 --json out.json 2048,4096,16,4 ...

Formulas and casts are those of Hugging Face PEFT (src/peft/tuners/lily/layer.py and lora/layer.py): x is cast to the type of
the adapter, the change to that of the result. On CUDA a sample is one call between two events, over activations that are
rotated through more memory than the second-level cache has; on a CPU it is wall time with warm caches. Medians.
"""
import argparse
import json
import statistics
import sys
import time

import torch

DTYPES = {
    # name: (activations, adapter). `mixed` is PEFT's default: it keeps adapters in float32.
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16": (torch.float16, torch.float16),
    "mixed": (torch.bfloat16, torch.float32),
}


def lily(x, y, a, router, b, scaling):
    """x [M, d], y [M, d], a [r, d], router [E, r], b [E, r, d]: y plus the adapter."""
    hidden = torch.nn.functional.linear(x.to(a.dtype), a)
    probabilities = torch.softmax(torch.nn.functional.linear(hidden, router), dim=-1)
    weights = probabilities.reshape(-1, router.shape[0]).mean(dim=0)
    combined = torch.einsum("e,eio->io", weights, b)
    return y + (torch.matmul(hidden, combined) * scaling).to(y.dtype)


def lora(x, y, a, b, scaling):
    """b [d, r], as LoRA stores it."""
    hidden = torch.nn.functional.linear(x.to(a.dtype), a)
    return y + (torch.nn.functional.linear(hidden, b) * scaling).to(y.dtype)


def random(shape, dtype, device, scale=1.0):
    return (torch.randn(shape, device=device) * scale).to(dtype)


def operands(method, shape, dtype, device):
    """The parameters of one adapted layer, and a function that makes activations."""
    tokens, d, rank, experts = shape
    activations, adapter = DTYPES[dtype]
    parameters = [random((rank, d), adapter, device, d**-0.5)]
    if method is lily:
        parameters += [random((experts, rank), adapter, device, rank**-0.5), random((experts, rank, d), adapter, device, 1e-3)]
    else:
        parameters += [random((d, rank), adapter, device, 1e-3)]
    for parameter in parameters:
        parameter.requires_grad_()

    def make():
        x = random((tokens, d), activations, device).requires_grad_()
        return x, random((tokens, d), activations, device), random((tokens, d), activations, device, 1e-3)

    return parameters, make


def rotation(shape, dtype, device):
    """How many sets of activations exceed twice the second-level cache."""
    if device == "cpu":
        return 1
    tokens, d, _, _ = shape
    one_set = 3 * tokens * d * torch.empty(0, dtype=DTYPES[dtype][0]).element_size()
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, -(-2 * cache // one_set))


def samples(run, sets, device, seconds):
    """Milliseconds of single calls, for about so many seconds and at least ten calls."""
    times, begin = [], time.perf_counter()
    while len(times) < 10 or (time.perf_counter() - begin < seconds and len(times) < 2000):
        given = sets[len(times) % len(sets)]
        if device == "cpu":
            start = time.perf_counter()
            run(*given)
            times.append((time.perf_counter() - start) * 1e3)
            continue
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run(*given)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def measure(method, compiled, shape, dtype, device, seconds):
    parameters, make = operands(method, shape, dtype, device)
    sets = [make() for _ in range(rotation(shape, dtype, device))]
    function = torch.compile(method) if compiled else method

    def forward(x, y, _):
        with torch.no_grad():
            return function(x, y, *parameters, 2.0)

    def both(x, y, dy):
        return torch.autograd.grad(function(x, y, *parameters, 2.0), [x, *parameters], dy)

    result = {"method": method.__name__, "compiled": compiled, "shape": shape, "dtype": dtype}
    for name, run in (("forward", forward), ("forward+backward", both)):
        for given in sets[:3]:
            run(*given)  # compiles, and picks algorithms
        times = samples(run, sets, device, seconds)
        result[name] = {"median": statistics.median(times), "samples": len(times)}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", metavar="M,d,r,E")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), action="append", help="default: bfloat16 and mixed")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each measurement")
    parser.add_argument("--no-compile", action="store_true", help="eager alone")
    parser.add_argument("--json", metavar="FILE", help="default: standard output")
    options = parser.parse_args()

    where = torch.cuda.get_device_name(0) if options.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    results = []
    for dtype in options.dtype or ["bfloat16", "mixed"]:
        for shape in [[int(n) for n in text.split(",")] for text in options.shapes]:
            for method in (lily, lora):
                for compiled in (False,) if options.no_compile else (False, True):
                    result = measure(method, compiled, shape, dtype, options.device, options.seconds)
                    results.append(result)
                    kind = f"{method.__name__}, {'compiled' if compiled else 'eager'}"
                    times = "  ".join(f"{name} {result[name]['median']:9.4f} ms" for name in ("forward", "forward+backward"))
                    print(f"{str(shape):24} {dtype:9} {kind:15} {times}", file=sys.stderr, flush=True)
    document = {"pytorch": torch.__version__, "device": where, "milliseconds": results}
    with open(options.json, "w") if options.json else sys.stdout as out:
        json.dump(document, out, indent=2)
        out.write("\n")


if __name__ == "__main__":
    main()
