import { defineConfig } from 'vite'

/**
 * With these headers the page is cross-origin isolated, and WebAssembly has threads. A server of dist/ sends them, too; the
 * page works without them on one thread, and says so.
 */
const headers = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
}

export default defineConfig({
  // The built page may lie in any folder of a site.
  base: './',
  build: { chunkSizeWarningLimit: 2000 },
  worker: { format: 'es' },
  server: { headers },
  preview: { headers },
})
