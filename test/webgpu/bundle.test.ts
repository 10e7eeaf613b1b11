/** What a bundler makes of lily-kernels/webgpu as it is published: sizes, and what it leaves out. */
import { build } from 'esbuild'
import { fileURLToPath } from 'node:url'
import { brotliCompressSync, gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The minified bundle of a page with this script. */
async function bundle(script: string): Promise<string> {
  const { outputFiles } = await build({
    stdin: { contents: script.replaceAll('lily-kernels/webgpu', './dist/webgpu.js'), resolveDir: root },
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

// Compressed, a third of it is shaders and their plans and a seventh the rest of lib/webgpu/. The rest it shares with the other
// backends: operands, checks and the messages of their errors, memory, and the order of a call.
test('a page with forward and backward', async () => {
  const text = await bundle(page)
  const brotli = brotliCompressSync(text).length
  const gzip = gzipSync(text, { level: 9 }).length
  console.log(`${text.length} bytes, ${brotli} with Brotli, ${gzip} with gzip`)
  expect(text).toContain('@compute')
  expect(text.length).toBeLessThanOrEqual(104_500)
  expect(brotli).toBeLessThanOrEqual(32_400)
  expect(gzip).toBeLessThanOrEqual(36_200)
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
  expect(text.length).toBeLessThan(0.6 * whole.length)
})
