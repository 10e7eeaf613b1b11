#!/usr/bin/env python3
"""Benchmark of PyTorch peers, without the base layer: PEFT's Lily layer and LoRA, eager and compiled, and the matrix
products alone, as a lower bound for separate products.

    python3 bench/peers/pytorch.py --device cuda --dtype bfloat16 --json out.json 2048,4096,16,4 ...

adapters.py has the methods. To compare with lily-kernels on a CPU, use `npm run bench:peers`, which samples both in turn.

On CUDA, a sample is the time between two events of enough calls to fill half a millisecond; operand sets rotate through
more memory than L2 holds, as in `lily-kernels bench`. On a CPU, a sample is wall time with warm caches. The script reports
medians.
"""
import argparse
import itertools
import json
import math
import statistics
import sys
import time

import torch

from adapters import DTYPES, forward_and_both, function_of, make_set, parameters_of, products

# As in bench/harness/sampling.ts: at this duration the resolution of the clock is negligible.
SAMPLE_MILLISECONDS = 0.5
# As in bench/harness/session.ts: for tiny operands, creating more sets takes longer than measuring.
MAX_SETS = 512


def sets_of(method, shape, dtype, device):
    """Number of operand sets: enough that L2 holds none of a set when it is used again."""
    if device == "cpu":
        return 1
    tokens, d, _, _ = shape
    activations, adapter = DTYPES[dtype]
    numbers = sum(torch.Size(size).numel() for size, _ in parameters_of(method, shape))
    bytes_of_one = 2 * tokens * d * activations.itemsize + numbers * adapter.itemsize
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(MAX_SETS, 1 + max(1, -(-2 * cache // bytes_of_one)))


def passes_of(method, compiled, shape, dtype, device):
    """The two passes, as functions of an operand set."""
    if method == "products":
        return products(shape, dtype, device)
    if compiled:
        torch.compiler.reset()
    return forward_and_both(function_of(method, compiled))


def sample(run, sets, device, calls):
    """Milliseconds per call, averaged over `calls`."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(calls):
            run(*next(sets))
        return (time.perf_counter() - start) * 1e3 / calls
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        run(*next(sets))
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def samples(run, sets, device, seconds):
    """Samples for about `seconds`, at least ten."""
    sets = itertools.cycle(sets)
    calls = max(1, math.ceil(SAMPLE_MILLISECONDS / min(sample(run, sets, device, 3) for _ in range(2))))
    times, begin = [], time.perf_counter()
    while len(times) < 10 or time.perf_counter() - begin < seconds:
        times.append(sample(run, sets, device, calls))
    return times


def measure(method, compiled, shape, dtype, device, seconds):
    sets = [make_set(method, shape, dtype, device) for _ in range(sets_of(method, shape, dtype, device))]
    torch.set_float32_matmul_precision("high" if dtype == "mixed-tf32" else "highest")
    result = {"method": method, "compiled": compiled, "shape": shape, "dtype": dtype}
    for name, run in passes_of(method, compiled, shape, dtype, device).items():
        for operands in sets[:3]:
            run(*operands)  # compiles and selects algorithms
        times = samples(run, sets, device, seconds)
        result[name] = {"median": statistics.median(times), "samples": len(times)}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", metavar="M,d,r,E")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        action="append",
        help="data type; repeatable (default: bfloat16, mixed, mixed-tf32)",
    )
    parser.add_argument("--seconds", type=float, default=0.3, help="time budget per measurement, in seconds")
    parser.add_argument("--limit", type=float, help="time budget of the run, in seconds: start no measurement after it")
    parser.add_argument("--no-compile", action="store_true", help="measure eager mode only")
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON to FILE (default: stdout)")
    options = parser.parse_args()

    begin = time.perf_counter()
    shapes = [[int(n) for n in text.split(",")] for text in options.shapes]
    # Compiled methods take longest and run last.
    kinds = [(method, False) for method in ("lily", "lora", "products")]
    kinds += [] if options.no_compile else [(method, True) for method in ("lily", "lora")]
    where = torch.cuda.get_device_name(0) if options.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    results, missing = [], []
    document = {"pytorch": torch.__version__, "device": where, "milliseconds": results, "missing": missing}
    for method, compiled in kinds:
        for dtype in options.dtype or ["bfloat16", "mixed", "mixed-tf32"]:
            if method == "products" and dtype.startswith("mixed"):
                continue  # the products require operands of one type
            for shape in shapes:
                kind = f"{method}, {'compiled' if compiled else 'eager'}"
                line = f"{str(shape):24} {dtype:9} {kind:16} "
                if options.limit is not None and time.perf_counter() - begin > options.limit:
                    missing.append(f"{kind}, {dtype}, {shape}: not measured within --limit")
                    continue
                try:
                    result = measure(method, compiled, shape, dtype, options.device, options.seconds)
                # torch.compile raises errors of its compilers, such as one without headers. The others are measured.
                except Exception as error:
                    reason = " ".join(str(error).splitlines()[:2]) or type(error).__name__
                    missing.append(f"{kind}, {dtype}, {shape}: {reason}")
                    print(line + reason, file=sys.stderr, flush=True)
                else:
                    results.append(result)
                    passes = ("forward", "forward+backward")
                    times = "  ".join(f"{name} {result[name]['median']:9.4f} ms" for name in passes)
                    print(line + times, file=sys.stderr, flush=True)
                # After every measurement, in case the run is stopped.
                if options.json:
                    with open(options.json, "w") as out:
                        json.dump(document, out, indent=2)
    if missing:
        print("not measured:", *missing, sep="\n  ", file=sys.stderr)
    if not options.json:
        json.dump(document, sys.stdout, indent=2)
    # Nothing at all was measured.
    sys.exit(0 if results else 1)


if __name__ == "__main__":
    main()
