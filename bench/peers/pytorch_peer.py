#!/usr/bin/env python3
"""PyTorch as a peer of `npm run bench:peers`: a process that measures one sample per request.

It reads requests and writes replies as lines of JSON; bench/peers/peer-process.ts describes them. The first line that it
writes says what it can measure. `--threads N` sets the number of threads, `--no-compile` leaves torch.compile out.
"""
import argparse
import ctypes
import json
import math
import os
import platform
import sys
import time

import torch

from adapters import DTYPES, forward_and_both, function_of, make_set, peft_lily

# The compiler and libraries also print to stdout: give them stderr.
REPLIES = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

# Elements of an output that are compared with lily-kernels: a few thousand of the largest arrays are enough.
COMPARED = 4096


def send(message):
    REPLIES.write(json.dumps(message) + "\n")
    REPLIES.flush()


def blas():
    """The BLAS library that this process has loaded, and the kernels that it selected for this processor."""
    with open("/proc/self/maps") as maps:
        paths = {line.split()[-1] for line in maps if "openblas" in line and ".so" in line}
    for path in sorted(paths):
        library = ctypes.CDLL(path)
        if hasattr(library, "openblas_get_corename"):
            library.openblas_get_config.restype = library.openblas_get_corename.restype = ctypes.c_char_p
            version = library.openblas_get_config().decode().split()[1]
            threading = ["one thread", "pthreads", "OpenMP"][library.openblas_get_parallel()]
            return f"OpenBLAS {version}, kernels {library.openblas_get_corename().decode()}, {threading}"
    return "unknown"


def reason_of(error):
    """The line of an error message that names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else type(error).__name__)[:300]


def compiler_problem():
    """Why torch.compile does not work as its authors intend; None if it does."""
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    try:
        torch.compile(lambda x: torch.relu(x) + 1, dynamic=False)(torch.ones(64, 64))
    except Exception as error:  # any failure means that there is no compiler
        return reason_of(error)
    finally:
        torch.compiler.reset()
    # It compiles scalar code if a header or library of its vector functions is missing.
    return None if pick_vec_isa() else "it compiles, but without vector instructions"


# The gradients of each adapter, by lily-kernels' names.
GRADIENTS = {
    "lily": ["dx", "da", "dRouter", "db"],
    "lora": ["dx", "da", "db"],
    "layer": ["dx"],
    "lily-layer": ["dx", "da", "dRouter", "db"],
    "lora-layer": ["dx", "da", "db"],
}


def available(options):
    methods = [{"name": name, "adapter": name} for name in GRADIENTS]
    compiled, missing = {}, []
    problem = None if options.no_compile else compiler_problem()
    if options.no_compile:
        missing.append({"name": "torch.compile", "reason": "left out by --no-compile", "install": ""})
    elif problem is not None:
        install = "apt-get install g++ libtorch-dev libsleef-dev (Debian), or pip install torch"
        missing.append({"name": "torch.compile", "reason": problem, "install": install})
    else:
        from torch._inductor.cpu_vec_isa import pick_vec_isa

        methods += [{"name": f"{name}-compiled", "adapter": name} for name in GRADIENTS]
        compiled["torch.compile"] = f"for {pick_vec_isa()}"
    try:
        from peft import LilyConfig  # noqa: F401
        import peft

        # Alone, the base layer of PEFT's layer is PyTorch's.
        methods += [{"name": f"peft-{name}", "adapter": name} for name in ("lily", "layer", "lily-layer")]
        peft_version = peft.__version__
    except Exception as error:
        peft_version = None
        missing.append({"name": "PEFT's own layer", "reason": reason_of(error), "install": "pip install 'peft>=0.19'"})
    versions = {
        "PyTorch": torch.__version__,
        "Python": platform.python_version(),
        "BLAS": blas(),
        "oneDNN": "available" if torch.backends.mkldnn.is_available() else "not available",
        "PyTorch's kernels": torch.backends.cpu.get_cpu_capability(),
        **compiled,
        **({"PEFT": peft_version} if peft_version else {}),
    }
    passes = ["forward", "forward+backward"]
    dtypes = [name for name in DTYPES if name != "mixed-tf32"]
    return {
        "versions": versions,
        "methods": [{**method, "passes": passes, "dtypes": dtypes} for method in methods],
        "missing": missing,
    }


def open_method(method, shape, dtype):
    adapter = method.removeprefix("peft-").removesuffix("-compiled")
    operands = make_set(adapter, shape, dtype, "cpu")
    if method in ("peft-lily", "peft-lily-layer"):
        x, y, dy, parameters = operands
        function, parameters = peft_lily(shape, parameters, y if adapter == "lily-layer" else None)
        operands = (x, y, dy, parameters)
    else:
        function = function_of(adapter, method.endswith("-compiled"))
    return {"adapter": adapter, "operands": operands, "runs": forward_and_both(function)}


def outputs_of(opened):
    """Evenly spaced elements of the outputs of a call: y, which an adapter adds to zero, and the gradients."""
    names = GRADIENTS[opened["adapter"]]
    gradients = opened["runs"]["forward+backward"](*opened["operands"])
    outputs = {"y": opened["runs"]["forward"](*opened["operands"]), **dict(zip(names, gradients))}
    values = {}
    for name, tensor in outputs.items():
        flat = tensor.detach().reshape(-1)
        compared = flat[:: -(-len(flat) // COMPARED)].float().tolist()
        # JSON has no NaN and no infinity.
        values[name] = [value if math.isfinite(value) else None for value in compared]
    return values


def sample(opened, name, warmup, calls):
    run, operands = opened["runs"][name], opened["operands"]
    end = time.perf_counter() + warmup
    run(*operands)
    while time.perf_counter() < end:
        run(*operands)
    begin = time.perf_counter()
    for _ in range(calls):
        run(*operands)
    return (time.perf_counter() - begin) / calls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    send(available(options))
    opened = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            kind = request["request"]
            if kind == "open":
                opened[request["method"]] = open_method(request["method"], request["shape"], request["dtype"])
                send({})
            elif kind == "outputs":
                send({"outputs": outputs_of(opened[request["method"]])})
            elif kind == "sample":
                seconds = sample(opened[request["method"]], request["pass"], request["warmup"], request["calls"])
                send({"seconds": seconds})
            elif kind == "close":
                opened.clear()
                torch.compiler.reset()
                send({})
            else:
                send({"error": f"unknown request {kind}"})
        except Exception as error:  # the other methods go on
            send({"error": reason_of(error)})


if __name__ == "__main__":
    main()
