#!/usr/bin/env python3
"""PyTorch as a contender of `npm run bench:step`: PyTorch's own operations, and the adapters by PEFT's formulas.

It reads requests and writes replies as lines of JSON; bench/step/protocol.ts describes them. `--threads N` sets the number
of threads.
"""
import argparse
import json
import math
import pathlib
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "peers"))
from adapters import filled, lily, lora
from pytorch_peer import blas, reason_of, send

# The same as in bench/step/problem.ts.
WEIGHT_DECAY = 0.01
MAX_NORM = 1
EMBEDDING_SCALE = 8


def values_of(initial):
    count = math.prod(initial["shape"])
    numbers = filled((initial["begin"] + count,), initial["scale"], torch.float32, "cpu")[initial["begin"] :]
    return (numbers + initial["shift"]).view(initial["shape"]).clone()


class Clock:
    """A clock with parts; one part runs at a time."""

    def __init__(self):
        self.seconds, self.part, self.since = {}, None, 0

    def begin(self, part):
        now = time.perf_counter()
        if self.part is not None:
            self.seconds[self.part] = self.seconds.get(self.part, 0) + now - self.since
        self.part, self.since = part, now


class Mark(torch.autograd.Function):
    """The same tensor. When it is computed, and when its gradient is, other parts of the time begin."""

    @staticmethod
    def forward(ctx, x, clock, on_forward, on_backward):
        ctx.clock, ctx.on_backward = clock, on_backward
        clock.begin(on_forward)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock.begin(ctx.on_backward)
        return gradient, None, None, None


def measured(clock, part, function, *inputs):
    """Computes function(*inputs), whose forward and backward pass become a part of the time of a clock that runs."""
    if clock is None:
        return function(*inputs)
    marked = [Mark.apply(x, clock, part, "kernels") for x in inputs]
    return Mark.apply(function(*marked), clock, "kernels", part)


def lily_by_sentence(x, y, a, router, b, mask, scaling):
    """y + the adapter of x, with one set of experts' weights for each sentence: x [sentences, length, d_in], mask
    [sentences, length]."""
    hidden = F.linear(x, a)
    probabilities = F.softmax(F.linear(hidden, router), dim=-1) * mask[..., None]
    weights = probabilities.sum(1) / mask.sum(1, keepdim=True)
    return y + torch.matmul(hidden, torch.einsum("se,eio->sio", weights, b)) * scaling


class Training:
    def __init__(self, problem):
        self.problem = problem
        frozen = {name: values_of(initial) for name, initial in problem["frozen"].items()}
        # Kernels [in, out] as F.linear takes them, [out, in]. An embedding is no kernel.
        kernels = {name: value for name, value in frozen.items() if value.dim() == 2}
        if problem["encoder"] == "finetune":
            for i in range(problem["blocks"]):
                name = f"Layer_{i}/MultiheadAttention/qkv_transform_single"
                weights, biases = kernels[f"{name}/kernel"].chunk(3, 1), frozen[f"{name}/bias"].chunk(3)
                for part, weight, bias in zip("qkv", weights, biases):
                    kernels[f"{i}.attention.{part}"], frozen[f"{i}.attention.{part}/bias"] = weight, bias.clone()
        self.frozen = frozen
        self.weights = {name: value.t().contiguous() for name, value in kernels.items()}
        self.parameters = {name: values_of(each).requires_grad_() for name, each in problem["parameters"].items()}
        self.head = {name: values_of(each).requires_grad_() for name, each in problem["head"].items()}
        self.trained = [*self.parameters.values(), *self.head.values()]
        groups = [
            {"params": list(self.parameters.values()), "lr": problem["rate"]},
            {"params": list(self.head.values()), "lr": problem["headRate"]},
        ]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        self.batches = [self.batch(batch) for batch in problem["batches"]]
        self.made = 0

    def batch(self, batch):
        tokens = torch.tensor(batch["tokens"])
        mask = torch.arange(tokens.shape[1])[None] < torch.tensor(batch["lengths"])[:, None]
        return tokens, mask, mask.float(), torch.tensor(batch["labels"])

    def linear(self, clock, x, weight, bias=None, name=None, mask=None):
        """x weight + bias, and the adapter of the layer that has the name."""

        def compute(x):
            y = F.linear(x, self.weights[weight], None if bias is None else self.frozen[bias])
            if name is None:
                return y
            names, scaling = self.problem["layers"][name], self.problem["scaling"]
            a, b = self.parameters[names["a"]], self.parameters[names["b"]]
            if names["router"] is None:
                return lora(x, y, a, b if scaling == 1 else b * scaling)
            router, stack = self.parameters[names["router"]], b.view(self.problem["experts"], a.shape[0], -1)
            if self.problem["bySentence"]:
                return lily_by_sentence(x, y, a, router, stack, mask, scaling)
            return lily(x, y, a, router, stack)

        return measured(clock, "layers", compute, x)

    def attention(self, clock, q, k, v, mask=None):
        """Attention of q, k and v [sentences, length, width]. The mask is True for the tokens that take part."""

        def compute(*inputs):
            sentences, length, width = inputs[0].shape
            q, k, v = (x.view(sentences, length, self.problem["heads"], -1).transpose(1, 2) for x in inputs)
            mixed = F.scaled_dot_product_attention(q, k, v, None if mask is None else mask[:, None, None, :])
            return mixed.transpose(1, 2).reshape(sentences, length, width)

        return measured(clock, "attention", compute, q, k, v)

    def loss_of_blocks(self, clock, batch):
        tokens, _, _, labels = batch
        x = self.frozen["embedding"][tokens] + self.frozen["position"]
        normalise = lambda x: F.layer_norm(x, x.shape[-1:])
        for block in range(self.problem["blocks"]):
            layer = lambda target, x: self.linear(clock, x, f"{block}.{target}", None, f"{block}.{target}")
            normal = normalise(x)
            x = x + layer("o", self.attention(clock, *(layer(target, normal) for target in "qkv")))
            up = layer("up", normalise(x))
            x = x + layer("down", up * torch.sigmoid(1.702 * up))
        return F.cross_entropy(normalise(x).mean(1) @ self.head["weight"], labels)

    def loss_of_finetune(self, clock, batch):
        tokens, mask, weights, labels = batch
        frozen = self.frozen

        def normalise(x, name):
            scale, bias = (frozen[f"{name}/layer_norm/layer_norm_{each}"] for each in ("scale", "bias"))
            return F.layer_norm(x, x.shape[-1:], scale, bias, 1e-6)

        phases = torch.arange(tokens.shape[1])[:, None] * frozen["Layer_0/AddTimingSignal/TimingSignal/ExpandDims_1"]
        x = frozen["module/Embeddings_en"][tokens] * 2 + torch.cat([phases.sin(), phases.cos()], 1)
        for i in range(self.problem["blocks"]):
            linear = lambda x, name, suffix="/kernel": self.linear(
                clock, x, f"Layer_{i}/{name}{suffix}", f"Layer_{i}/{name}/bias"
            )
            normal = normalise(x, f"Layer_{i}/layer_prepostprocess")
            names = [f"{i}.attention.{part}" for part in "qkv"]
            qkv = (self.linear(clock, normal, name, f"{name}/bias", name, weights) for name in names)
            attended = linear(self.attention(clock, *qkv, mask), "MultiheadAttention/output_transform_single")
            x = attended + (linear(x, "dense") if f"Layer_{i}/dense/kernel" in self.weights else x)
            expanded = F.relu(linear(normalise(x, f"Layer_{i}/FFN/layer_prepostprocess"), "FFN/conv1", ""))
            x = x + linear(expanded, "FFN/conv2", "")
        mean = (x * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
        dense = "hidden_layers/tanh_layer_0"
        embedding = torch.tanh(self.linear(clock, mean, f"{dense}/weights", f"{dense}/bias"))
        embedding = embedding / embedding.norm(dim=1, keepdim=True) * EMBEDDING_SCALE
        logits = (embedding @ self.head["weight"] + self.head["bias"]).flatten()
        return F.binary_cross_entropy_with_logits(logits, labels.float())

    def step(self, clock=None):
        """One step on the next batch. Returns the loss before it."""
        batch = self.batches[self.made % len(self.batches)]
        if clock is not None:
            clock.begin("kernels")
        loss = (self.loss_of_blocks if self.problem["encoder"] == "blocks" else self.loss_of_finetune)(clock, batch)
        self.optimiser.zero_grad()
        loss.backward()
        if clock is not None:
            clock.begin("optimiser")
        torch.nn.utils.clip_grad_norm_(self.trained, MAX_NORM)
        self.optimiser.step()
        if clock is not None:
            clock.begin(None)
        self.made += 1
        return loss.item()


def answer(request, training):
    kind = request["request"]
    if kind == "losses":
        return {"losses": [training.step() for _ in range(request["steps"])]}
    each = len(training.batches)
    steps = request["rounds"] * each
    for _ in range(request["warmup"] * each):
        training.step()
    if kind == "sample":
        begin = time.perf_counter()
        for _ in range(steps):
            training.step()
        return {"seconds": (time.perf_counter() - begin) / steps}
    clock = Clock()
    for _ in range(steps):
        training.step(clock)
    return {"parts": {part: seconds / steps for part, seconds in clock.seconds.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, required=True)
    torch.set_num_threads(parser.parse_args().threads)
    capability = torch.backends.cpu.get_cpu_capability()
    versions = {"PyTorch": torch.__version__, "BLAS": blas(), "PyTorch's kernels": capability}
    send({"versions": versions, "methods": [], "missing": []})
    training = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["request"] == "open":
                training = Training(request["problem"])
                send({})
            else:
                send(answer(request, training))
        except Exception as error:  # the contender can go on
            send({"error": reason_of(error)})


if __name__ == "__main__":
    main()
