/** `lily-kernels doctor`: diagnoses the installation. */
import { Command } from 'commander'
import { countOf } from '../../lib/base/errors.js'
import { print } from '../../report/print.js'
import { jsonText, oneLine } from '../../report/printable.js'
import { diagnose } from './diagnose.js'
import { coresName, type Diagnosis } from './diagnosis.js'

/** @param version version of the package */
export function doctorCommand(version: string): Command {
  return new Command('doctor')
    .description('diagnose the installation: list the backends, test those available, suggest fixes for the others')
    .option('--json', 'print the diagnosis as JSON')
    .addHelpText(
      'after',
      '\nThe exit code is 1 if the cpu backend is not available, a self-test fails, or the diagnosis cannot be written.',
    )
    .action(async ({ json = false }: { json?: boolean }) => {
      const diagnosis = await diagnose(version)
      if (!diagnosis.ok) process.exitCode = 1
      print(json ? jsonText(diagnosis, 2) : textOf(diagnosis))
    })
}

/** A diagnosis as lines of a name and a text. */
export function textOf(diagnosis: Diagnosis): string {
  const { version, node, platform, os, libc, addon, environment, processor } = diagnosis
  const lines: [string, string][] = [
    ['lily-kernels', version],
    ['Node', node],
    ['platform', [platform, os, ...(libc === null ? [] : [libc])].join(', ')],
    [
      'addon',
      addon.loads ? 'loads' : [processor === null ? 'FAILS' : 'not in use', addon.reason ?? []].flat().join(': '),
    ],
  ]
  for (const [name, value] of Object.entries(environment)) lines.push(['environment', `${name}=${value}`])
  if (processor !== null) {
    const { instructionSets, simd, threads, because, affinity, quota, physicalCores, amxRefusal } = processor
    const limits = [
      `CPU affinity ${affinity}`,
      `${coresName(platform)} in it ${physicalCores ?? 'unknown'}`,
      ...(quota === null ? [] : [`cgroup quota ${quota}`]),
    ].join(', ')
    lines.push(['instructions', `${simd ?? 'none'} in use; supported: ${instructionSets.join(', ')}`])
    if (amxRefusal !== null)
      lines.push(['amx', `refused: ${amxRefusal}; bfloat16 runs on ${simd ?? 'no set'}, tf32 in float32`])
    if (threads !== null) lines.push(['threads', `${threads}, determined by ${because} (${limits})`])
  }
  for (const { name, available, reason, devices, selfTest } of diagnosis.backends) {
    if (!available) lines.push([name, `not available: ${reason ?? 'no reason given'}`])
    for (const { id, name: model, computeCapability, memory, without } of devices) {
      const gibibytes = memory === undefined ? [] : [`${(memory / 2 ** 30).toFixed(1)} GiB`]
      const capability = computeCapability === undefined ? [] : [`compute capability ${computeCapability}`]
      const left =
        without === undefined
          ? []
          : [
              `WITHOUT ${without}, which gave a wrong result; please report this with the output of lily-kernels doctor --json`,
            ]
      lines.push([`${name}:${id}`, [model, ...capability, ...gibibytes, ...left].join(', ')])
    }
    // One device does not respond, but others do. Of the cpu backend the line of the addon has said it.
    if (available && name !== 'cpu' && reason !== undefined) lines.push([name, reason])
    if (selfTest !== undefined) lines.push([name, selfTest.passed ? 'self-test passed' : failure(selfTest.reason)])
  }
  const { webassembly, webgpu, mpi } = diagnosis
  lines.push(['webassembly', webAssemblyText(diagnosis)])
  if (webassembly.selfTest?.passed === false) lines.push(['webassembly', failure(webassembly.selfTest.reason)])
  lines.push(['webgpu', webgpu.available ? (webgpu.name ?? 'an adapter') : `not available: ${webgpu.reason ?? ''}`])
  if (webgpu.available) lines.push(['webgpu', webGpuTestText(webgpu)])
  if (mpi !== null) lines.push(['mpi', mpi.available ? `${mpi.library} (${mpi.file})` : `not available: ${mpi.reason}`])
  const width = Math.max(...lines.map(([name]) => name.length)) + 2
  return lines.map(([name, text]) => `${name.padEnd(width)}${oneLine(text)}`).join('\n')
}

function webAssemblyText({ webassembly, addon, processor }: Diagnosis): string {
  const { available, simd, threads = 1, reason } = webassembly
  if (!available) return `not available: ${reason ?? 'no reason given'}`
  const simdText = simd === 'wasm-relaxed' ? 'relaxed SIMD' : 'SIMD'
  const because = reason === undefined ? '' : `, because ${reason}`
  const isInUse = processor?.instructionSets.some((name) => name.startsWith('wasm')) === true
  const use = isInUse ? 'in use' : addon.loads ? 'not in use: the addon is' : 'not in use'
  return `${countOf(threads, 'thread')}${because}; ${simdText}; ${use}`
}

function webGpuTestText({ selfTest }: Diagnosis['webgpu']): string {
  if (selfTest === undefined) return 'a program on the CPU, without a self-test: compiling the kernels takes long'
  return selfTest.passed ? 'self-test passed' : failure(selfTest.reason)
}

function failure(reason = 'no reason given'): string {
  // The self-test of the addon, at the first use of a device, asks for the report itself.
  const request = reason.includes('please report')
    ? ''
    : '; please report this with the output of lily-kernels doctor --json'
  return `SELF-TEST FAILED: ${reason}${request}`
}
