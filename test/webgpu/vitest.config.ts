import { spawnSync } from 'node:child_process'
import { path, project } from '../support/project.js'

/** Finds the adapter of Dawn, in a separate process, because an instance of Dawn keeps its process alive. */
function findAdapter() {
  const ask = `
    import('webgpu').then(async ({ create }) => {
      const adapter = await create([]).requestAdapter()
      process.stdout.write(adapter === null ? 'none' : 'found')
      process.exit()
    })`
  const { stdout } = spawnSync(process.execPath, ['-e', ask], { cwd: path('.'), encoding: 'utf8' })
  if (stdout === 'found') return {}
  return 'Dawn (the npm package webgpu) finds no adapter; install mesa-vulkan-drivers and libvulkan1 for that of Mesa'
}

/** GPUDevices of Dawn, with the published entries in place of those of lib/. Files below the entries stay. */
export default project('webgpu', {
  needs: findAdapter,
  setupFiles: ['test/support/webgpu.ts'],
  alias: [
    { find: /^lily-kernels$/, replacement: path('dist/index.js') },
    { find: /^lily-kernels\/(tfjs|tfjs-layers|webgpu)$/, replacement: path('dist/$1.js') },
    { find: /^(?:\.\.\/)+lib\/index\.js$/, replacement: path('dist/index.js') },
    { find: /^(?:\.\.\/)+lib\/(tfjs|tfjs-layers|webgpu)\/index\.js$/, replacement: path('dist/$1.js') },
  ],
  // Node.js loads them: as modules of vitest, the entries would not share their chunks.
  external: [/\/dist\/[\w-]+\.c?js$/],
  env: {
    LILY_TEST_BACKEND: 'webgpu',
    // Mesa's compiler takes most of the time, and half as long without optimisation and with short vectors.
    GALLIVM_PERF: 'nopt',
    LP_NATIVE_VECTOR_WIDTH: '128',
  },
})
