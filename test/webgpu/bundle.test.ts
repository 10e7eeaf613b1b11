/** What a bundler makes of lily-kernels/webgpu as it is published: sizes, and what it leaves out. */
import { build } from 'esbuild'
import { fileURLToPath } from 'node:url'
import { brotliCompressSync } from 'node:zlib'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The minified bundle of a page with this script. */
async function bundle(script: string): Promise<string> {
  const { outputFiles } = await build({
    stdin: { contents: script.replaceAll('lily-kernels/webgpu', './dist/browser/webgpu.js'), resolveDir: root },
    bundle: true,
    minify: true,
    format: 'esm',
    platform: 'browser',
    write: false,
  })
  return outputFiles[0].text
}

const page = `
  import { createLily } from 'lily-kernels/webgpu'
  const adapter = await navigator.gpu.requestAdapter()
  const lily = createLily(await adapter.requestDevice())
  const x = lily.tensor(new Float32Array(32), [2, 16])
  const { y, saved } = lily.lilyForward({ x, a, router, b })
  document.title = lily.lilyBackward({ dy: y }, saved)`

test('a page with forward and backward', async () => {
  const text = await bundle(page)
  const brotli = brotliCompressSync(text).length
  console.log(`${text.length} bytes, ${brotli} with Brotli`)
  expect(text).toContain('@compute')
  expect(brotli).toBeLessThanOrEqual(48_000)
})

test('a page that uses no kernels has no shaders', async () => {
  const whole = await bundle(page)
  const text = await bundle(`
    import { LilyError } from 'lily-kernels/webgpu'
    export const isOutOfMemory = (error) => error instanceof LilyError && error.code === 'ERR_LILY_OUT_OF_MEMORY'`)
  for (const shader of ['@compute', 'vec4f', 'workgroupBarrier']) {
    expect(whole).toContain(shader)
    expect(text).not.toContain(shader)
  }
})
