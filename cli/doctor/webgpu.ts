/**
 * WebGPU in Node.js, from the npm package `webgpu`. A process of its own asks for an adapter: drivers print warnings, and some
 * crash or do not answer.
 */
import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { adapterName, type AdapterWords, SOFTWARE } from '../../bench/harness/adapter-name.js'
import { packageRoot } from '../../lib/binding/root.js'
import type { Diagnosis } from './diagnosis.js'
import { operands, type ResultName, SCALING, wrongResult } from './problem.js'

const NO_PACKAGE = 'the npm package webgpu, which is Dawn, is not installed here; npm install webgpu'
const NO_ADAPTER = 'there is no adapter; install the driver of the GPU, or mesa-vulkan-drivers for a software adapter'

/** A GPU takes a few seconds, most of them to compile the kernels. */
const SECONDS = 60

/** What the process has sent. */
interface Answers {
  /** Null: there is no adapter. */
  readonly adapter?: AdapterWords | null
  readonly results?: Record<ResultName, number[]>
  /** What was thrown, or why there are no further answers. */
  readonly error?: string
}

/** The program of the process. It is a string, because a bundler moves files. */
const SCRIPT = `
const { webgpu, entry, software, operands, scaling } = JSON.parse(process.env.LILY_DOCTOR)
const send = (answer) => new Promise((resolve) => process.send(answer, resolve))
try {
  const { create, globals } = await import(webgpu)
  Object.assign(globalThis, globals)
  const gpu = create([])
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  const { vendor, architecture, device, description } = adapter?.info ?? {}
  await send({ adapter: adapter && { vendor, architecture, device, description } })
  // A program on the CPU takes long to compile the kernels.
  if (adapter !== null && !new RegExp(software, 'i').test([vendor, architecture, device, description].join(' '))) {
    const { createLily } = await import(entry)
    const lily = createLily(await adapter.requestDevice())
    const place = ({ data, shape }) => lily.tensor(data, shape)
    const { dy, ...inputs } = Object.fromEntries(Object.entries(operands).map(([name, each]) => [name, place(each)]))
    const { y, saved } = lily.lilyForward(inputs, { scaling })
    const results = {}
    for (const [name, tensor] of Object.entries({ y, ...lily.lilyBackward({ dy }, saved) })) {
      results[name] = [...(await tensor.toHost()).data]
    }
    await send({ results })
  }
} catch (error) {
  await send({ error: String(error?.message ?? error) })
}
process.exit()
`

/** Where the user runs the command, and beside this package. */
const FOLDERS = ['.', dirname(fileURLToPath(import.meta.url))]

/** @param folders from which the package is looked for */
export async function webGpu(folders = FOLDERS, seconds = SECONDS): Promise<Diagnosis['webgpu']> {
  const file = findPackage(folders)
  if (file === undefined) return { available: false, reason: NO_PACKAGE }
  // Without permission to start processes `spawn` throws.
  const { adapter, results, error } = await ask(file, seconds).catch((error: unknown): Answers => {
    return { error: `its process does not start (${error instanceof Error ? error.message : String(error)})` }
  })
  if (adapter === undefined) return { available: false, reason: error ?? 'its process gave no answer' }
  if (adapter === null) return { available: false, reason: NO_ADAPTER }
  const name = adapterName(adapter)
  if (SOFTWARE.test(name)) return { available: true, name }
  const reason = results === undefined ? (error ?? null) : wrongResult(results, 'float32')
  return { available: true, name, selfTest: reason === null ? { passed: true } : { passed: false, reason } }
}

function findPackage(folders: readonly string[]): string | undefined {
  for (const folder of folders) {
    try {
      return createRequire(resolve(folder, 'index.js')).resolve('webgpu')
    } catch {
      // It is not there, or the folder is not: `resolve` throws if the working directory was removed.
    }
  }
  return undefined
}

async function ask(file: string, seconds: number): Promise<Answers> {
  const question = {
    webgpu: pathToFileURL(file).href,
    entry: pathToFileURL(join(packageRoot, 'dist', 'webgpu.js')).href,
    software: SOFTWARE.source,
    operands,
    scaling: SCALING,
  }
  const child = spawn(process.execPath, ['--input-type=module', '-e', SCRIPT], {
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, LILY_DOCTOR: JSON.stringify(question) },
    timeout: 1000 * seconds,
    killSignal: 'SIGKILL',
  })
  let answers: Answers = {}
  let printed = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (printed += text))
  child.on('message', (message: Answers) => (answers = { ...answers, ...message }))
  return new Promise((answer, refuse) => {
    child.on('error', refuse)
    child.on('close', (code, signal) => {
      const [warning = ''] = printed.trim().split('\n')
      const end = signal === 'SIGKILL' ? `gave no answer within ${seconds} seconds` : `ended with ${signal ?? code}`
      answer({ error: `its process ${end}${warning === '' ? '' : `: ${warning}`}`, ...answers })
    })
  })
}
