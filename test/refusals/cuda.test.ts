/**
 * Every argument of what exists on a device only, replaced by values of other kinds; see test/refusals/arguments.test.ts.
 *
 * @project cuda
 */
import { captureGraph, DeviceBuffer, Event, Stream, tensor } from '../../lib/index.js'
import { type Row, testRows } from './kinds.js'

const EMPTY = ['undefined', '{}'] as const
const buffer = () => DeviceBuffer.allocate([2]).fill(0)
const recorded = () => Event.create().record()
const device = { argument: /device/, valid: ['undefined'] } as const

const rows: Record<string, Record<string, Row>> = {
  Tensor: {
    to: { argument: /device/, call: (value) => tensor([1, 2], [2]).to(value) },
    'to id': {
      argument: /device/,
      valid: ['undefined'],
      call: (id) => tensor([1, 2], [2]).to({ type: 'cuda', id }),
    },
  },
  Stream: {
    create: { ...device, call: (value) => Stream.create(value) },
    default: { ...device, call: (value) => Stream.default(value) },
    waitEvent: { argument: /event/, call: (event) => Stream.default().waitEvent(event) },
  },
  Event: {
    create: { ...device, call: (value) => Event.create(value) },
    record: { argument: /stream/, valid: ['undefined'], call: (stream) => Event.create().record(stream) },
    elapsedTime: { argument: /end/, call: (end) => recorded().elapsedTime(end) },
  },
  DeviceBuffer: {
    shape: { argument: /shape/, call: (shape) => DeviceBuffer.allocate(shape) },
    dtype: { argument: /dtype/, valid: ['undefined'], call: (dtype) => DeviceBuffer.allocate([1], dtype) },
    device: { ...device, call: (value) => DeviceBuffer.allocate([1], 'float32', value) },
    options: {
      argument: /options/,
      valid: EMPTY,
      call: (options) => DeviceBuffer.allocate([1], 'float32', { type: 'cuda' }, options),
    },
    stream: {
      argument: /stream/,
      valid: ['undefined'],
      call: (stream) => DeviceBuffer.allocate([1], 'float32', { type: 'cuda' }, { stream }),
    },
    upload: { argument: /data/, call: (data) => buffer().upload(data) },
    'upload offset': {
      argument: /offset|from element/,
      valid: ['undefined'],
      call: (offset) => buffer().upload(new Float32Array(1), offset),
    },
    download: { argument: /into/, valid: ['undefined'], call: (into) => buffer().download(into) },
    'download offset': {
      argument: /offset|from element/,
      valid: ['undefined'],
      call: (offset) => buffer().download(undefined, offset),
    },
    copyFrom: { argument: /source/, call: (source) => buffer().copyFrom(source) },
    fill: { argument: /byte/, valid: ['5'], call: (byte) => buffer().fill(byte) },
  },
  captureGraph: {
    fn: { argument: /fn/, valid: ['function'], call: (fn) => captureGraph(fn) },
    options: { argument: /options/, valid: EMPTY, call: (options) => captureGraph(() => undefined, options) },
    device: { ...device, call: (value) => captureGraph(() => undefined, { device: value }) },
  },
}

testRows(rows)
