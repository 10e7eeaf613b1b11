/** The kernels on a GPUDevice: plans a call, builds the shaders of its passes, and encodes their dispatches. */
import { fail } from '../base/errors.js'
import type { BackwardCall, ForwardCall, GpuWork, RowsCall } from '../binding/gpu-call.js'
import type { Plan } from '../binding/gpu-pass.js'
import { type Excess, excessOf } from './bindings.js'
import { type Dispatches, join, type Planned } from './join.js'
import { Pipelines } from './pipelines.js'
import { planBackward } from './plan/backward.js'
import { foldCommon, planFold } from './plan/fold.js'
import { planForward } from './plan/forward.js'
import { planLinear } from './plan/linear.js'
import { Problem } from './plan/problem.js'
import { planRest } from './plan/rows.js'
import { threadsOf } from './plan/tiles.js'
import { type Common, LEAST_THREADS } from './wgsl/module.js'

/** The uniform parameters of a pass begin at multiples of this many bytes. */
const UNIFORM_ALIGNMENT = 256

/** What has no parameters in common. */
const NONE: Common = { params: {}, floats: {} }

/** Allocates a buffer with usages STORAGE, UNIFORM, COPY_SRC and COPY_DST, at least as long; its contents are undefined. */
export type Allocate = (byteLength: number) => GPUBuffer

/**
 * Encodes work, one call after the other. The methods encode into the encoder that is passed and submit nothing. They allocate
 * what the calls require beyond their operands with `allocate`; that memory may be reused by whatever the queue runs after the
 * encoder's commands.
 */
export class GpuKernels {
  readonly #device: GPUDevice
  readonly #pipelines: Pipelines

  /**
   * @throws LilyError ERR_LILY_ARGUMENT for a device whose workgroups are too small, as they may be at the level
   *   'compatibility'
   */
  constructor(device: GPUDevice) {
    const threads = threadsOf(device.limits)
    if (threads < LEAST_THREADS) {
      const text =
        `the kernels require ${LEAST_THREADS} threads of a workgroup, and the device allows ${threads} ` +
        '(maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupSizeX)'
      refuse({ argument: 'device', text }, '')
    }
    this.#device = device
    this.#pipelines = new Pipelines(device)
  }

  encode(work: readonly GpuWork[], encoder: GPUCommandEncoder, allocate: Allocate): void {
    this.#encode(this.#dispatches(work), encoder, allocate)
  }

  /** Resolves once the pipelines of such work are compiled, off the main thread. Throws at once if {@link encode} would. */
  compile(work: readonly GpuWork[]): Promise<unknown> {
    const modules = this.#dispatches(work).flatMap(({ modules }) => modules)
    return Promise.all(modules.map((module) => this.#pipelines.compile(module)))
  }

  #dispatches(work: readonly GpuWork[]): Dispatches[] {
    return work.flatMap((each) => join(this.#planned(each), this.#device.limits))
  }

  /** The plans of a call, or of those in a list. */
  #planned(work: GpuWork): Planned[] {
    const { limits } = this.#device
    switch (work.name) {
      case 'forward':
        return [{ plan: this.#checked(work.call, planForward), common: new Problem(work.call).common }]
      case 'backward':
        return [{ plan: this.#checked(work.call, planBackward), common: new Problem(work.call).common }]
      case 'forwardRows':
        return this.#list(work.call, (call) => planForward(call, limits))
      case 'backwardRows':
        return this.#list(work.call, (call) => planBackward(call, limits))
      case 'linear':
        return [{ plan: this.#checked(work.call, planLinear), common: NONE }]
      case 'fold':
        return [{ plan: this.#within(planFold(work.call)), common: foldCommon(work.call) }]
      case 'plan':
        return [{ plan: this.#within(work.call), common: NONE }]
    }
  }

  /** The plan of a call that fits into the limits of the device. The error says how many tokens would fit. */
  #checked<Call extends { readonly tokens: number }>(
    call: Call,
    planOf: (call: Call, limits: GPUSupportedLimits) => Plan,
  ): Plan {
    const { limits } = this.#device
    const plan = planOf(call, limits)
    const excess = excessOf(plan, limits)
    if (excess === null) return plan
    let [fitting, tooMany] = [0, call.tokens]
    while (tooMany - fitting > 1) {
      const tokens = Math.floor((fitting + tooMany) / 2)
      if (excessOf(planOf({ ...call, tokens }, limits), limits) === null) fitting = tokens
      else tooMany = tokens
    }
    return refuse(excess, fitting === 0 ? '' : `, or pass at most ${fitting} tokens per call`)
  }

  #list<Call extends ForwardCall | BackwardCall>(
    { calls, rest }: RowsCall<Call>,
    planOf: (call: Call) => Plan,
  ): Planned[] {
    const planned = calls.map((call) => ({ plan: this.#within(planOf(call)), common: new Problem(call).common }))
    return rest === null ? planned : [...planned, { plan: this.#within(planRest(rest)), common: NONE }]
  }

  /** A plan whose sizes are not numbers of tokens. */
  #within(plan: Plan): Plan {
    const excess = excessOf(plan, this.#device.limits)
    return excess === null ? plan : refuse(excess, '')
  }

  #encode(work: readonly Dispatches[], encoder: GPUCommandEncoder, allocate: Allocate): void {
    // Everything that may fail comes before the first command.
    const modules = work.flatMap(({ modules }) => modules)
    if (modules.length === 0) return
    const pipelines = modules.map((module) => this.#pipelines.get(module))
    const offsets: number[] = []
    let bytes = 0
    for (const { uniforms } of modules) {
      offsets.push(bytes)
      bytes += Math.ceil(uniforms.byteLength / UNIFORM_ALIGNMENT) * UNIFORM_ALIGNMENT
    }
    const uniforms = allocate(bytes)
    const workspace = allocate(Math.max(UNIFORM_ALIGNMENT, ...work.map(({ workspaceBytes }) => workspaceBytes)))
    const content = new Uint8Array(bytes)
    for (const [i, module] of modules.entries()) content.set(new Uint8Array(module.uniforms), offsets[i])
    this.#device.queue.writeBuffer(uniforms, 0, content)

    const pass = encoder.beginComputePass()
    for (const [i, module] of modules.entries()) {
      const { pipeline, layout } = pipelines[i]
      const entries = [
        { binding: 0, resource: { buffer: uniforms, offset: offsets[i], size: module.uniforms.byteLength } },
        ...module.bindings.map(({ buffer, offset, size }, binding) => ({
          binding: binding + 1,
          resource: { buffer: buffer ?? workspace, offset, size },
        })),
      ]
      pass.setPipeline(pipeline)
      pass.setBindGroup(0, this.#device.createBindGroup({ layout, entries }))
      pass.dispatchWorkgroups(...module.grid)
    }
    pass.end()
  }
}

function refuse({ argument, text }: Excess, advice: string): never {
  fail('ERR_LILY_ARGUMENT', argument, `${text}; request a device with a larger limit${advice}`)
}
