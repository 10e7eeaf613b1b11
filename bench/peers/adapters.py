"""The adapters and their operands in PyTorch, without the base layer or with it.

`lily` and `lora` use the formulas and casts of Hugging Face PEFT (src/peft/tuners/lily/layer.py and lora/layer.py): x is
cast to the type of the adapter, and the output of the adapter to the type of y. `frozen_layer` is the base layer, a linear
layer whose weight has no gradient, and `lily_layer` and `lora_layer` are that layer with an adapter. `peft_lily` is PEFT's
own layer, around a base layer that returns y, or around a frozen linear layer. `products` runs only the shrink and expand products (cuBLAS on CUDA) into preallocated memory,
without a router and with a combined b computed beforehand.

All methods overwrite the gradients of the parameters, whereas lily-kernels accumulates them. `products` accumulates y and
dx.
"""
import torch

DTYPES = {
    # name: (activations, adapter). `mixed` is PEFT's default, which keeps adapters in float32.
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "float16": (torch.float16, torch.float16),
    "mixed": (torch.bfloat16, torch.float32),
    # `mixed` with float32 products in TF32. PyTorch's default is full precision; the default of lily-kernels rounds to 16 bits.
    "mixed-tf32": (torch.bfloat16, torch.float32),
}
SCALING = 1.0  # the default of lily-kernels; PEFT multiplies in any case


def lily(x, y, a, router, b):
    """Returns y + adapter(x) for x [M, d], y [M, d], a [r, d], router [E, r], b [E, r, d]."""
    hidden = torch.nn.functional.linear(x.to(a.dtype), a)
    probabilities = torch.softmax(torch.nn.functional.linear(hidden, router), dim=-1)
    weights = probabilities.reshape(-1, router.shape[0]).mean(dim=0)
    combined = torch.einsum("e,eio->io", weights, b)
    return y + (torch.matmul(hidden, combined) * SCALING).to(y.dtype)


def lora(x, y, a, b):
    """Returns y + adapter(x) for a [r, d] and b [d, r], the layout of LoRA checkpoints."""
    hidden = torch.nn.functional.linear(x.to(a.dtype), a)
    return y + (torch.nn.functional.linear(hidden, b) * SCALING).to(y.dtype)


def rows_loop(x, y, of, adapters):
    """y with the adapter of[t] of each row t added in place, by the loop of PEFT (_mixed_batch_forward of
    src/peft/tuners/lora/layer.py): x [M, d], of [M], and an adapter is a function of its rows of x and y."""
    for k in of.unique().tolist():
        rows = torch.where(of == k)[0]
        y[rows] = adapters[k](x[rows], y[rows])
    return y


def rows_gather(x, y, of, a, b):
    """The same of LoRA by a gather: a [K, r, d] and b [K, d, r] are selected for each row of x."""
    hidden = torch.bmm(a.index_select(0, of), x[:, :, None])
    y += torch.bmm(b.index_select(0, of), hidden)[:, :, 0] * SCALING
    return y


def frozen_layer(x, weight):
    """Returns the output of the base layer for weight [d, d]."""
    return torch.nn.functional.linear(x, weight)


def lily_layer(x, weight, a, router, b):
    return lily(x, frozen_layer(x, weight), a, router, b)


def lora_layer(x, weight, a, b):
    return lora(x, frozen_layer(x, weight), a, b)


def peft_lily(shape, parameters, weight=None):
    """PEFT's own layer as a function of x and y; with a weight, around a frozen linear layer, as a function of x. Its
    parameters share the memory of `parameters`."""
    from peft import LilyConfig, get_peft_model

    class GivenOutput(torch.nn.Module):
        y = None

        def forward(self, _):
            return self.y

    class OneLayer(torch.nn.Module):
        def __init__(self, d):
            super().__init__()
            self.proj = torch.nn.Linear(d, d, bias=False)

    _, d, rank, experts = shape
    config = LilyConfig(r=rank, num_B=experts, stride_A=1, scaling=SCALING, target_modules=["proj"])
    layer = get_peft_model(OneLayer(d), config).base_model.model.proj
    if weight is None:
        layer.base_layer = base = GivenOutput()
    else:
        layer.base_layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    a, router, b = parameters
    for module, values in ((layer.lily_A, a), (layer.lily_router, router), (layer.lily_B, b.view(-1, d))):
        module["default"].weight = torch.nn.Parameter(values.detach())

    def function(x, y, *_):
        if weight is None:
            base.y = y
        return layer(x[None])[0]

    return function, [module["default"].weight for module in (layer.lily_A, layer.lily_router, layer.lily_B)]


def parameters_of(method, shape):
    """Shapes and scales of the parameters, as in bench/workload/operands.ts."""
    _, d, rank, experts = shape
    a = ((rank, d), d**-0.5)
    if method == "layer":
        return []
    if method in ("lily", "lily-layer"):
        return [a, ((experts, rank), rank**-0.5), ((experts, rank, d), 0.02)]
    return [a, ((d, rank) if method in ("lora", "lora-layer") else (rank, d), 0.02)]


PATTERN_SIZE = 65521
PATTERN = None


def filled(shape, scale, dtype, device):
    """The numbers of `filled` in bench/workload/operands.ts, so that all peers compute the same."""
    global PATTERN
    if PATTERN is None:
        state, numbers = 1, []
        for _ in range(PATTERN_SIZE):
            state = (state * 1664525 + 1013904223) % 2**32
            numbers.append(state / 2**31 - 1)
        PATTERN = torch.tensor(numbers, dtype=torch.float64)
    numbers = (PATTERN * scale).float()
    bits = numbers.view(torch.int32)
    if dtype == torch.bfloat16:
        numbers = ((bits >> 16) << 16).view(torch.float32)
    elif dtype == torch.float16:
        numbers = ((bits >> 13) << 13).view(torch.float32)
        numbers[numbers.abs() < 2**-14] = 0
    count = torch.Size(shape).numel()
    return numbers.to(dtype).repeat(-(-count // PATTERN_SIZE))[:count].view(shape).to(device, copy=True)


def make_set(method, shape, dtype, device):
    """x, y, dy and the parameters of one adapted layer; the weight of the frozen layer in place of y if there is one."""
    tokens, d, _, _ = shape
    activations, adapter = DTYPES[dtype]
    x, dy = (filled((tokens, d), scale, activations, device) for scale in (1, 0.1))
    if method.endswith("layer"):
        y = filled((d, d), d**-0.5, activations, device)
    else:
        y = torch.zeros((tokens, d), dtype=activations, device=device)
    parameters = [filled(*each, adapter, device) for each in parameters_of(method, shape)]
    if method != "products":
        for tensor in (x, *parameters):
            tensor.requires_grad_()
    return x, y, dy, parameters


def function_of(method, compiled):
    """Call torch.compiler.reset() before another shape: after eight, the compiler stops compiling."""
    functions = {"lily": lily, "lora": lora}
    functions.update({"layer": frozen_layer, "lily-layer": lily_layer, "lora-layer": lora_layer})
    function = functions[method]
    return torch.compile(function, dynamic=False) if compiled else function


def forward_and_both(function):
    """The two passes, as functions of an operand set."""

    def forward(x, y, _, parameters):
        with torch.no_grad():
            return function(x, y, *parameters)

    def both(x, y, dy, parameters):
        return torch.autograd.grad(function(x, y, *parameters), [x, *parameters], dy)

    return {"forward": forward, "forward+backward": both}


def products(shape, dtype, device):
    """y += s hidden combined with hidden = x a^T, and its gradients; dx is accumulated."""
    tokens, d, rank, _ = shape
    kind = DTYPES[dtype][0]
    empty = lambda *size: torch.empty(size, dtype=kind, device=device)
    hidden, d_hidden = empty(tokens, rank), empty(tokens, rank)
    da, d_combined = empty(rank, d), empty(rank, d)
    dx = torch.zeros((tokens, d), dtype=kind, device=device)

    def forward(x, y, _, parameters):
        a, combined = parameters
        torch.mm(x, a.t(), out=hidden)
        y.addmm_(hidden, combined, alpha=SCALING)

    def both(x, y, dy, parameters):
        a, combined = parameters
        forward(x, y, dy, parameters)
        torch.mm(dy, combined.t(), out=d_hidden)
        torch.mm(hidden.t(), dy, out=d_combined)
        torch.mm(d_hidden.t(), x, out=da)
        dx.addmm_(d_hidden, a, alpha=SCALING)

    return {"forward": forward, "forward+backward": both}
