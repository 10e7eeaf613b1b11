// Page faults of results that the calls allocate.
import { lilyForward, tensor } from 'lily-kernels'

const [tokens, d] = [512, 768]
const ones = (...shape) => tensor(new Float32Array(shape.reduce((product, size) => product * size)).fill(1), shape)
const operands = { x: ones(tokens, d), a: ones(1, d), router: ones(2, 1), b: ones(2, 1, d) }
for (let i = 0; i < 200; i++) lilyForward(operands)
const before = process.resourceUsage().minorPageFault
for (let i = 0; i < 1000; i++) lilyForward(operands)
console.log((process.resourceUsage().minorPageFault - before) / 1000)
