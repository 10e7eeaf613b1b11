import { linearBackward, linearForward } from 'lily-kernels'

/** A frozen linear layer with a Lily adapter: y = x W^T + bias + adapter(x). */
class AdaptedLinear {
  constructor(base, name, adapter) {
    this.weight = base.get(`base.${name}.weight`)
    this.bias = base.get(`base.${name}.bias`)
    this.adapter = adapter.layer(name)
  }

  forward(x) {
    const { weight, bias } = this
    const { y, saved } = this.adapter.forward({ x, weight, bias })
    this.saved = saved
    return y
  }

  /** Adds the gradient of x to dx, and the gradients of the adapter's parameters to those in the adapter. */
  backward(dy, dx) {
    this.adapter.backward({ dy, saved: this.saved, dx })
    this.saved.dispose()
  }
}

/** y = x + o_proj(tanh(q_proj(x)[..., :width]) * v_proj(x)), where width is the output width of v_proj. */
class Layer {
  constructor(base, name, adapter) {
    this.q = new AdaptedLinear(base, `${name}.q_proj`, adapter)
    this.v = new AdaptedLinear(base, `${name}.v_proj`, adapter)
    this.o = base.get(`base.${name}.o_proj.weight`)
  }

  forward(x) {
    const q = this.q.forward(x)
    const v = this.v.forward(x)
    const gate = zeros(v.shape)
    eachRow(v, q, (i, j) => (gate.data[i] = Math.tanh(q.data[j])))
    const product = { data: v.data.map((value, i) => value * gate.data[i]), shape: v.shape }
    const y = { data: x.data.slice(), shape: x.shape }
    linearForward({ x: product, weight: this.o, y })
    this.kept = { q, v, gate }
    return y
  }

  backward(dy) {
    const { q, v, gate } = this.kept
    const dProduct = linearBackward({ dy, weight: this.o }).dx
    const dv = { data: dProduct.data.map((value, i) => value * gate.data[i]), shape: v.shape }
    const dq = zeros(q.shape)
    eachRow(v, q, (i, j) => (dq.data[j] = dProduct.data[i] * v.data[i] * (1 - gate.data[i] ** 2)))
    const dx = { data: dy.data.slice(), shape: dy.shape }
    this.q.backward(dq, dx)
    this.v.backward(dv, dx)
    return dx
  }
}

/** The model of the checkpoint: a stack of layers. */
export class TinyModel {
  constructor(base, adapter) {
    this.layers = [0, 1, 2, 3].map((l) => new Layer(base, `layers.${l}.self_attn`, adapter))
  }

  forward(x) {
    return this.layers.reduce((value, layer) => layer.forward(value), x)
  }

  backward(dy) {
    return this.layers.reduceRight((gradient, layer) => layer.backward(gradient), dy)
  }
}

function zeros(shape) {
  return { data: new Float32Array(shape.reduce((product, size) => product * size, 1)), shape }
}

/** Calls visit(i, j) for each element i of `narrow`; j is the element of `wide` in the same row and column. */
function eachRow(narrow, wide, visit) {
  const columns = narrow.shape.at(-1)
  const wideColumns = wide.shape.at(-1)
  for (let i = 0; i < narrow.data.length; i++) {
    visit(i, Math.floor(i / columns) * wideColumns + (i % columns))
  }
}
