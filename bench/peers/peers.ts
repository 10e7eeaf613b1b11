/** The peers: how to start each, and how to install one that is missing. */
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { withoutSelectedKernels } from '../harness/openblas.js'
import { type Contender, peerContender } from './contender.js'
import { type PeerCommand, PeerProcess } from './peer-process.js'
import type { Hello, Missing } from './protocol.js'

export interface Peer {
  readonly name: string
  /** How to install it. */
  readonly install: string
  /** The process, or why there is none. */
  readonly command: (options: PeerOptions) => PeerCommand | { readonly reason: string }
  /** The name of a method of the peer in the tables. */
  readonly title: (method: string) => string
}

export interface PeerOptions {
  readonly threads: number
  /** Whether PyTorch's methods are also measured compiled. */
  readonly compiles: boolean
}

const path = (file: string): string => fileURLToPath(new URL(file, import.meta.url))

/**
 * The variables that are set for PyTorch. By default, glibc returns large arrays to the system when they are freed, and
 * every call pays for new pages. Debian's PyTorch does not link what it compiles with the vector functions that the code
 * calls, and compiles scalar code if they are not preloaded.
 */
export const pytorchSettings = (threads: number): Readonly<Record<string, string>> => ({
  OMP_NUM_THREADS: String(threads),
  MALLOC_MMAP_THRESHOLD_: String(2 ** 32),
  MALLOC_TRIM_THRESHOLD_: String(2 ** 32),
  MALLOC_TOP_PAD_: String(2 ** 28),
  LD_PRELOAD: 'libsleef.so.3',
})

export function pytorchEnvironment(threads: number, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...withoutSelectedKernels(env), ...pytorchSettings(threads), PYTHONDONTWRITEBYTECODE: '1' }
}

/** Debian's PyTorch belongs to /usr/bin/python3, which need not be the first in PATH. */
const pythons = ['python3', '/usr/bin/python3']

/** A Python that has PyTorch. */
export const findPython = (env: NodeJS.ProcessEnv): string | undefined =>
  pythons.find((each) => spawnSync(each, ['-c', 'import torch'], { env }).status === 0)

export const pytorch: Peer = {
  name: 'PyTorch',
  install:
    'apt-get install python3-torch libopenblas0-openmp g++ libtorch-dev libsleef-dev (Debian), or pip install torch',
  command: ({ threads, compiles }) => {
    const env = pytorchEnvironment(threads, process.env)
    const python = findPython(env)
    if (python === undefined) return { reason: `no module torch in ${pythons.join(' or ')}` }
    const args = [path('pytorch_peer.py'), '--threads', String(threads), ...(compiles ? [] : ['--no-compile'])]
    return { command: python, args, env }
  },
  title: (method) =>
    method.startsWith('peft-') ? "PEFT's layer" : `PyTorch ${method.endsWith('-compiled') ? 'compiled' : 'eager'}`,
}

/** A peer that is a program of Node.js beside this file, if the package that it measures is installed. */
function nodePeer(name: string, title: string, file: string, required: string, install: string): Peer {
  return {
    name,
    install,
    command: ({ threads }) => {
      try {
        createRequire(import.meta.url).resolve(required)
      } catch {
        return { reason: `the package ${required} was not found` }
      }
      const args = ['--import', 'tsx', path(file), '--threads', String(threads)]
      return { command: process.execPath, args, env: process.env }
    },
    title: () => title,
  }
}

export const onnxRuntime = nodePeer(
  'ONNX Runtime',
  'ONNX Runtime',
  'onnxruntime.ts',
  'onnxruntime-node',
  'ONNXRUNTIME_NODE_INSTALL=skip npm install --no-save onnxruntime-node',
)

export const tensorflowJs = nodePeer(
  'TensorFlow.js',
  'TensorFlow.js wasm',
  'tfjs.ts',
  '@tensorflow/tfjs-backend-wasm',
  'npm ci',
)

/** The peers by the names of the option --peer. */
export const peers = { pytorch, onnxruntime: onnxRuntime, tfjs: tensorflowJs } as const
export type PeerName = keyof typeof peers
export const peerNames = Object.keys(peers) as PeerName[]

export interface Started {
  readonly contenders: readonly Contender[]
  readonly versions: Readonly<Record<string, string>>
  readonly missing: readonly Missing[]
  /** Ends the processes. */
  readonly stop: () => void
}

/** Starts every peer that is there. */
export async function startPeers(all: readonly Peer[], options: PeerOptions): Promise<Started> {
  const running: { peer: PeerProcess; hello: Hello; title: Peer['title'] }[] = []
  const missing: Missing[] = []
  for (const { name, install, command, title } of all) {
    const found = command(options)
    if ('reason' in found) {
      missing.push({ name, reason: found.reason, install })
      continue
    }
    try {
      const { peer, hello } = await PeerProcess.start(found)
      running.push({ peer, hello, title })
      missing.push(...hello.missing)
    } catch (error) {
      missing.push({ name, reason: (error as Error).message, install })
    }
  }
  return {
    contenders: running.flatMap(({ peer, hello, title }) =>
      hello.methods.map((method) => peerContender(title(method.name), peer, method)),
    ),
    versions: Object.assign({}, ...running.map(({ hello }) => hello.versions)) as Record<string, string>,
    missing,
    stop: () => {
      for (const { peer } of running) peer.stop()
    },
  }
}
