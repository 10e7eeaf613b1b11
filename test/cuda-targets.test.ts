/** The targets that CMakeLists.txt accepts for the CUDA library. Nothing is built, and nvcc is not needed. */
import { spawnSync } from 'node:child_process'
import { expect, test } from 'vitest'
import { codeOf, targets } from '../scripts/cuda-targets.js'
import { temporaryFolder } from './support/temporary.js'

const folder = temporaryFolder()

function configure(codes: string[]): string {
  const options = ['-DLILY_CUDA=OFF', `-DLILY_CUDA_TARGETS=${codes.join(';')}`]
  const { status, stderr } = spawnSync('cmake', ['-S', '.', '-B', folder, ...options], { encoding: 'utf8' })
  return status === 0 ? 'accepted' : stderr.replace(/\s+/g, ' ')
}

test('those of the published library', () => {
  expect(configure(targets.map(codeOf))).toBe('accepted')
})

test.each(['sm_90', 'compute_90', '[sm_90,sm_100]', '[sm_100,compute_90]'])('not %s of compute_90', (code) => {
  const codes = ['arch=compute_80,code=sm_80', `arch=compute_90,code=${code}`, 'arch=compute_110,code=compute_110']
  expect(configure(codes)).toContain('LILY_CUDA_TARGETS has code of compute_90 for GPUs of 9.0')
})
