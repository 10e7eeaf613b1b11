/** How scripts/check-resources.js reads what ptxas prints. */
import { expect, test } from 'vitest'
import { kernelsOf, serialisedOf } from '../../scripts/ptxas-output.js'

// cspell:ignore GMMA Pfmm gmem
/** Of nvcc 13.0, with -v: a kernel that adds to the sums between two products, and waits after the second. */
const SERIALISED = `\
ptxas info    : (C7517) warpgroup.wait is injected in around line 87 by compiler to allow use of registers defined by GMMA in function '_Z6serialPfmm'
ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient register resources for the wgmma pipeline in the function '_Z6serialPfmm'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z6serialPfmm' for 'sm_90a'
ptxas info    : Function properties for _Z6serialPfmm
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 42 registers, used 0 barriers
ptxas info    : Compile time = 11.395 ms
`

test('the resources of a kernel', () => {
  const [first, ...others] = kernelsOf(SERIALISED)
  expect(first).toMatchObject({ symbol: '_Z6serialPfmm', architecture: 90, registers: 42, spillStoreBytes: 0 })
  expect(others).toEqual([])
})

test('wgmma that is serialised', () => {
  const lines = SERIALISED.split('\n')
  expect(serialisedOf(SERIALISED)).toEqual(lines.slice(0, 2))
  expect(serialisedOf(lines.slice(2).join('\n'))).toEqual([])
  // The code of another message that ptxas has.
  const other = lines[1]
    .replace('C7511', 'C7520')
    .replace(/due to .*/, 'due to compiler-inserted WG.AR in divergent path')
  expect(serialisedOf(other)).toEqual([other])
})
