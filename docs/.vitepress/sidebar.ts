import type { DefaultTheme } from 'vitepress'

const page = (text: string, path: string): DefaultTheme.SidebarItem => ({ text, link: `/${path}` })

/** The pages beside the API, in the order in which a reader needs them. */
export const guides: DefaultTheme.SidebarItem[] = [
  {
    text: 'Start',
    items: [
      page('Getting started', 'docs/getting-started'),
      page('Fine-tuning an encoder', 'examples/finetune/README'),
      page('A page for browsers', 'examples/browser/README'),
      page('Examples', 'examples/README'),
      page('Comparison', 'docs/comparison'),
    ],
  },
  {
    text: 'Concepts',
    items: [
      page('The operation', 'docs/math'),
      page('Routing and data types', 'docs/routing'),
      page('Memory and errors', 'docs/memory'),
    ],
  },
  {
    text: 'Guides',
    items: [
      page('Training a model', 'docs/model'),
      page('Checkpoints', 'docs/checkpoints'),
      page('Serving', 'docs/serving'),
      page('Frozen layers', 'docs/linear'),
      page('Attention', 'docs/attention'),
      page('TensorFlow.js', 'docs/tfjs'),
      page('Other libraries', 'docs/interop'),
      page('Several machines', 'docs/distributed'),
      page('WebGPU', 'docs/webgpu'),
      page('CUDA', 'docs/cuda'),
    ],
  },
  {
    text: 'Reference',
    items: [
      page('API', 'docs/api/'),
      page('Platforms and browsers', 'docs/platforms'),
      page('Performance and command line', 'docs/performance'),
      page('Results', 'bench/results/README'),
    ],
  },
  {
    text: 'Development',
    items: [
      page('Contributing', 'CONTRIBUTING'),
      page('Decisions', 'docs/decisions/README'),
      page('Names in the code', 'native/README'),
      page('CPU backend', 'native/cpu/README'),
      page('CUDA backend', 'native/cuda/README'),
      page('Emulator', 'emulator/README'),
      page('Benchmarks', 'bench/README'),
      page('Changelog', 'CHANGELOG'),
    ],
  },
]

/** What the folders of lib/ are about. */
const topics: Readonly<Record<string, string>> = {
  operations: 'Operations',
  model: 'Models',
  optimiser: 'Optimiser',
  checkpoint: 'Checkpoints',
  tensor: 'Tensors, streams, graphs',
  memory: 'Devices and memory',
  analysis: 'Analysis',
  base: 'Types and errors',
  tfjs: 'lily-kernels/tfjs',
  'tfjs-layers': 'lily-kernels/tfjs-layers',
  webgpu: 'lily-kernels/webgpu',
  gguf: 'lily-kernels/gguf',
  onnx: 'lily-kernels/onnx',
  mpi: 'lily-kernels/mpi',
}

/** The folders of the pages of each kind of name; the numbers are those of typedoc's models. */
const kinds: Readonly<Record<number, string>> = {
  64: 'functions',
  128: 'classes',
  256: 'interfaces',
  2097152: 'type-aliases',
  32: 'variables',
}

/** What typedoc writes into build/api.json, as far as it is read here. */
export interface ApiModel {
  readonly children: readonly {
    readonly name: string
    readonly children: readonly {
      readonly name: string
      readonly kind: number
      readonly sources: readonly { readonly fileName: string }[]
    }[]
  }[]
}

/** The names of the API by topic; functions and classes come before the types of their operands and options. */
export function apiSidebar({ children: modules }: ApiModel): DefaultTheme.SidebarItem[] {
  const names = modules.flatMap(({ name: module, children }) =>
    // The names that an entry takes from another have their pages there.
    children
      .filter(({ kind }) => kind in kinds)
      .map(({ name, kind, sources: [{ fileName }] }) => ({
        topic: /^lib\/([\w-]+)/.exec(fileName)?.[1] ?? '',
        order: Object.values(kinds).indexOf(kinds[kind]),
        text: name,
        item: page(kind === 64 ? `${name}()` : name, `docs/api/${module}/${kinds[kind]}/${name}`),
      })),
  )
  // Two groups and none that folds: the button of VitePress for that is no button to a screen reader.
  const groups = Object.entries(topics).flatMap(([topic, text]) => {
    const own = names.filter((name) => name.topic === topic).sort((a, b) => a.text.localeCompare(b.text, 'en'))
    const of = (isType: boolean) => own.filter(({ order }) => order > 1 === isType).map(({ item }) => item)
    return [
      { text, items: of(false) },
      { text: `${text}: types`, items: of(true) },
    ].filter(({ items }) => items.length > 0)
  })
  return [{ text: 'API', items: [page('Overview', 'docs/api/'), page('Guides', 'docs/getting-started')] }, ...groups]
}
