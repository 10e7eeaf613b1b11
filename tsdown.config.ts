import { defineConfig } from 'tsdown'

export default defineConfig({
  entry: ['lib/index.ts'],
  // Both formats lie flat in dist/: lib/root.ts counts on it.
  format: ['esm', 'cjs'],
  outDir: 'dist',
  platform: 'node',
  target: 'node20',
  fixedExtension: false,
  dts: true,
  sourcemap: false,
})
