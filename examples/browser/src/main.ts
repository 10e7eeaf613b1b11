/** The page: each section gets its panel. */
import { BackendPanel } from './backend-panel.js'
import { mountBenchmarkPanel } from './benchmark/panel.js'
import { mountInspectPanel } from './inspect/panel.js'
import { mountRunPanel } from './run/panel.js'
import { mountTrainPanel } from './train/panel.js'

const section = (id: string): HTMLElement => document.querySelector<HTMLElement>(`#${id}`)!

const backends = new BackendPanel(section('backend'))
mountInspectPanel(section('inspect'))
mountBenchmarkPanel(section('benchmark'), backends)
mountTrainPanel(section('train'), backends)
mountRunPanel(section('run'), backends)
await backends.open()
