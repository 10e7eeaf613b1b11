/**
 * Calls that run on the host off the main thread. Their operands are taken before they start: several calls of one
 * operation take theirs before the first one writes anything.
 */
import { backwardSlots, forwardSlots, linearSlots } from '../binding/descriptor.js'
import { bound } from '../binding/errors.js'
import { native } from '../binding/native.js'
import type { BackwardCall, ForwardCall } from './allocate.js'
import type { AsyncOperands } from './async-operands.js'
import {
  backward,
  type Descriptor,
  describeBackward,
  describeForward,
  describeLinear,
  forward,
  linear,
} from './launch.js'
import type { LinearCall } from './linear-problem.js'
import { GRADIENTS } from './read.js'

/** Starts a call whose operands have been taken. */
export type Start = () => Promise<void>

/** @throws LilyError ERR_LILY_ARGUMENT for memory that can shrink, as the other functions here */
export function takeForward(call: ForwardCall, operands: AsyncOperands): Start {
  const { x, a, router, b } = call.state.problem
  describeForward(call)
  try {
    operands.input(forward, forwardSlots.x, 'x', x)
    operands.input(forward, forwardSlots.a, 'a', a)
    operands.input(forward, forwardSlots.router, 'router', router)
    operands.input(forward, forwardSlots.b, 'b', b)
    operands.output(forward, forwardSlots.y, 'y', call.y)
    return startOf('forwardAsync', forward)
  } finally {
    forward.clear()
  }
}

export function takeBackward(call: BackwardCall, operands: AsyncOperands): Start {
  const { a, router, b } = call.state.problem
  describeBackward(call)
  try {
    operands.input(backward, backwardSlots.dy, 'dy', call.dy)
    operands.input(backward, backwardSlots.x, 'x', call.x)
    operands.input(backward, backwardSlots.a, 'a', a)
    operands.input(backward, backwardSlots.router, 'router', router)
    operands.input(backward, backwardSlots.b, 'b', b)
    operands.saved(backward, [backwardSlots.hidden, backwardSlots.probabilities, backwardSlots.weights])
    for (const name of GRADIENTS) operands.output(backward, backwardSlots[name], name, call.gradients[name])
    return startOf('backwardAsync', backward)
  } finally {
    backward.clear()
  }
}

export function takeLinear(call: LinearCall, operands: AsyncOperands): Start {
  const { problem, x, bias, y } = call
  describeLinear(call)
  try {
    operands.input(linear, linearSlots.x, problem.transposed ? 'dy' : 'x', x)
    operands.input(linear, linearSlots.weight, 'weight', problem.weight)
    operands.input(linear, linearSlots.bias, 'bias', bias)
    operands.output(linear, linearSlots.y, problem.transposed ? 'dx' : 'y', y)
    return startOf('linearAsync', linear)
  } finally {
    linear.clear()
  }
}

/** The descriptor is copied: other calls use it before this one starts. */
function startOf(name: 'forwardAsync' | 'backwardAsync' | 'linearAsync', descriptor: Descriptor): Start {
  const numbers = descriptor.numbers.slice()
  const memory = descriptor.memory.slice()
  return () => bound(() => native[name](numbers, ...memory))
}
