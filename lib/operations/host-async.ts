/** Calls that run on the host off the main thread. */
import { backwardSlots, forwardSlots, linearSlots } from '../binding/descriptor.js'
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import { AsyncOperands } from './async-operands.js'
import { backward, describeBackward, describeForward, describeLinear, forward, linear } from './launch.js'
import type { LinearCall } from './linear-problem.js'
import { GRADIENTS } from './read.js'

/** A call that runs off the main thread. */
export interface Started {
  readonly promise: Promise<void>
  /** To be finished once the promise has resolved. */
  readonly operands: Pick<AsyncOperands, 'finish'>
}

export function startForward(call: ForwardCall): Started {
  const { x, a, router, b } = call.state.problem
  const operands = new AsyncOperands(forward)
  describeForward(call)
  try {
    operands.input(forwardSlots.x, 'x', x)
    operands.input(forwardSlots.a, 'a', a)
    operands.input(forwardSlots.router, 'router', router)
    operands.input(forwardSlots.b, 'b', b)
    operands.output(forwardSlots.y, 'y', call.y)
    return { promise: bound(() => native.forwardAsync(forward.numbers, ...forward.memory)), operands }
  } finally {
    forward.clear()
  }
}

export function startBackward(call: BackwardCall): Started {
  const { a, router, b } = call.state.problem
  const operands = new AsyncOperands(backward)
  describeBackward(call)
  try {
    operands.input(backwardSlots.dy, 'dy', call.dy)
    operands.input(backwardSlots.x, 'x', call.x)
    operands.input(backwardSlots.a, 'a', a)
    operands.input(backwardSlots.router, 'router', router)
    operands.input(backwardSlots.b, 'b', b)
    operands.saved([backwardSlots.hidden, backwardSlots.probabilities, backwardSlots.weights])
    for (const name of GRADIENTS) operands.output(backwardSlots[name], name, call.gradients[name])
    return { promise: bound(() => native.backwardAsync(backward.numbers, ...backward.memory)), operands }
  } finally {
    backward.clear()
  }
}

export function startLinear(call: LinearCall): Started {
  const { problem, x, bias, y } = call
  const operands = new AsyncOperands(linear)
  describeLinear(call)
  try {
    operands.input(linearSlots.x, problem.transposed ? 'dy' : 'x', x)
    operands.input(linearSlots.weight, 'weight', problem.weight)
    operands.input(linearSlots.bias, 'bias', bias)
    operands.output(linearSlots.y, problem.transposed ? 'dx' : 'y', y)
    return { promise: bound(() => native.linearAsync(linear.numbers, ...linear.memory)), operands }
  } finally {
    linear.clear()
  }
}
