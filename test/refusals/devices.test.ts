/**
 * What tensors, devices and their objects refuse, where there is a CUDA device and where there is none.
 *
 * @project cpu cuda
 */
import { it } from 'vitest'
import * as lily from '../../lib/index.js'
import { backend } from '../support/backend.js'
import { expectRefused } from './refused.js'
import { type Kinds, refuse } from './table.js'

const { captureGraph, DeviceBuffer, Event, Stream, tensor } = lily
const device = { type: 'cuda' } as const
const hasDevice = backend === 'cuda'

/** Where there is no device, everything is refused, and the errors may name the device. */
function refuseOnDevice<Call extends object>(name: string, call: Call, run: (call: Call) => unknown, kinds: Kinds) {
  const required = Object.values(kinds).join(' ')
  const names = Object.fromEntries(required.split(' ').map((path) => [path, new RegExp(`${path}|device`)]))
  refuse(name, {
    call: () => ({ ...call }),
    run,
    kinds: hasDevice ? kinds : { required },
    names: hasDevice ? { offset: /offset|data|into/, id: /device/ } : names,
    isInvalid: !hasDevice,
  })
}

refuse('tensor', {
  call: () => ({ data: [1, 2], shape: [2], dtype: 'float32' as const }),
  run: ({ data, shape, dtype }) => tensor(data, shape, dtype),
  kinds: { required: 'data shape', optional: 'dtype' },
  names: { data: /data|shape/ },
})
refuse('tensor of a typed array', {
  call: () => ({ dtype: 'float32' as const }),
  run: ({ dtype }) => tensor(new Float32Array(2), [2], dtype),
  kinds: { optional: 'dtype' },
})
refuse('memoryStats', {
  call: () => ({ device: { type: 'cpu' } as lily.Device }),
  run: ({ device }) => lily.memoryStats(device),
  rows: [['device', 'null', null, 'DEVICE', "{ type: 'cuda', id }, or the device of a createLily object, got null"]],
})
refuseOnDevice('Tensor.to', { device }, ({ device }) => tensor([1, 2], [2]).to(device), { required: 'device' })
refuseOnDevice('Tensor.to an id', { id: 0 }, ({ id }) => tensor([1, 2], [2]).to({ ...device, id }), { optional: 'id' })
refuseOnDevice('Stream.create', { device }, ({ device }) => Stream.create(device), { optional: 'device' })
refuseOnDevice('Stream.default', { device }, ({ device }) => Stream.default(device), { optional: 'device' })
refuseOnDevice('Event.create', { device }, ({ device }) => Event.create(device), { optional: 'device' })
refuseOnDevice(
  'DeviceBuffer.allocate',
  { shape: [1], dtype: 'float32' as const, device, options: {} },
  ({ shape, dtype, device, options }) => DeviceBuffer.allocate(shape, dtype, device, options),
  { required: 'shape', optional: 'dtype device options.stream', options: 'options' },
)
refuseOnDevice('captureGraph', { fn: () => undefined, options: {} }, ({ fn, options }) => captureGraph(fn, options), {
  function: 'fn',
  options: 'options',
  optional: 'options.device',
})
if (hasDevice) {
  const buffer = () => DeviceBuffer.allocate([2]).fill(0)
  const data = new Float32Array(1)
  const into = new Float32Array(2)
  refuseOnDevice(
    'Stream.waitEvent',
    { event: Event.create().record() },
    ({ event }) => {
      Stream.default().waitEvent(event)
    },
    { required: 'event' },
  )
  refuseOnDevice('Event.record', { stream: undefined }, ({ stream }) => Event.create().record(stream), {
    optional: 'stream',
  })
  const complete = async () => {
    const event = Event.create().record()
    await event.synchronize()
    return event
  }
  const end = await complete()
  refuseOnDevice('Event.elapsedTime', { end }, async ({ end }) => (await complete()).elapsedTime(end), {
    required: 'end',
  })
  refuseOnDevice('DeviceBuffer.upload', { data, offset: 0 }, ({ data, offset }) => buffer().upload(data, offset), {
    required: 'data',
    optional: 'offset',
  })
  refuseOnDevice('DeviceBuffer.download', { into, offset: 0 }, ({ into, offset }) => buffer().download(into, offset), {
    optional: 'into offset',
  })
  refuseOnDevice('DeviceBuffer.copyFrom', { source: buffer() }, ({ source }) => buffer().copyFrom(source), {
    required: 'source',
  })
  refuseOnDevice('DeviceBuffer.fill', { byte: 5 }, ({ byte }) => buffer().fill(byte), { number: 'byte' })
}

it('a private constructor names the function that creates the object', async () => {
  const classes = new Map<unknown, string>([
    [Stream, 'Stream: its constructor is private; call Stream.create(device)'],
    [Event, 'call Event.create(device)'],
    [lily.Tensor, 'Tensor: its constructor is private; call tensor(data, shape)'],
    [DeviceBuffer, 'call DeviceBuffer.allocate(shape)'],
    [lily.PackedLinear, 'call packLinear(weight)'],
    [lily.SafetensorsFile, 'call SafetensorsFile.open(file)'],
    [lily.LilyModel, 'call LilyModel.create(options) or LilyModel.fromPretrained(folder)'],
    [lily.LoraModel, 'call LoraModel.create(options) or LoraModel.fromPretrained(folder)'],
  ])
  const values = [[], [5], [{}], [{ device: 0, cudaStream: 1 }], [new Float32Array(2), [2]], [Symbol('create')]]
  for (const [of, message] of classes) {
    const create = of as new (...values: readonly unknown[]) => unknown
    for (const each of values) await expectRefused('ERR_LILY_ARGUMENT', message, () => new create(...each))
  }
})
