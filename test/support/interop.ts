/** The libraries of test/interop, at exactly these versions. */
import { existsSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { packageRoot } from '../../lib/binding/root.js'
import { installOnce } from './npm-install.js'

/**
 * They are no devDependencies: onnxruntime-node's install script downloads CUDA libraries, and together they have some
 * 750 MB. Later versions of @stdlib/ndarray depend on a git repository.
 */
const LIBRARIES = [
  '@jax-js/jax@0.1.25',
  'onnxruntime-node@1.30.0',
  '@huggingface/transformers@4.3.2',
  'koffi@3.3.4',
  'ndarray@1.1.1',
  '@stdlib/ndarray@0.3.3',
]

/** A project in which the libraries and the built package are installed: its folder. */
export function interopProject(): string {
  const folder = installOnce('interop', LIBRARIES)
  const own = join(folder, 'node_modules', 'lily-kernels')
  if (!existsSync(own)) symlinkSync(packageRoot, own)
  return folder
}

/** The folder of the released onnxruntime-web. Transformers.js depends on a version between releases. */
export function onnxRuntimeWeb(): string {
  return join(installOnce('onnx-web', ['onnxruntime-web@1.30.0']), 'node_modules', 'onnxruntime-web')
}

/** `require` of that project. */
export function requireLibrary(name: string): unknown {
  return createRequire(join(interopProject(), 'package.json'))(name)
}
