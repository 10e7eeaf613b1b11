/** The main loops of the register tiles in an object file, as objdump prints them. */
import { execFileSync } from 'node:child_process'

export interface TileLoop {
  /** The tile, for example `multiply_tile<Floats, 6, 4, float>`. */
  readonly tile: string
  readonly multiplyAdds: number
  /** The instructions that move a vector between a register and the stack. */
  readonly spills: readonly string[]
}

/** Compilers other than GCC use rbp as a general register; as a frame pointer it has a negative offset and no index. */
const SPILL = /[vq]\d.*\[sp|%[xyz]mm.*\(%rsp|%[xyz]mm.*-0x[0-9a-f]+\(%rbp\)|(\(%rsp|-0x[0-9a-f]+\(%rbp\)).*%[xyz]mm/

/** The multiply-adds of a step of the smallest tile of six rows: two vectors wide, or, narrow, of two chains. */
const LEAST = 12

/** The loops with LEAST or more multiply-adds of a vector. `objdump` is the program for the processor of `file`. */
export function tileLoops(objdump: string, file: string): TileLoop[] {
  const text = execFileSync(objdump, ['-d', '--demangle', '--no-show-raw-insn', file], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  })
  return text.split(/\n(?=[0-9a-f]+ <)/).flatMap((block) => {
    const [title, ...lines] = block.replaceAll('lily::cpu::(anonymous namespace)::', '').split('\n')
    const tile = /multiply(?:_narrow)?_tile<.*?>(?=\()/.exec(title)?.[0]
    if (tile === undefined) return []
    const code = lines.flatMap((line) => {
      const [, address, instruction] = /^ *([0-9a-f]+):\t(.*)/.exec(line) ?? []
      return address === undefined ? [] : [{ address: parseInt(address, 16), instruction }]
    })
    // A loop is what lies between a jump backwards and its target, without another such jump.
    let begin = 0
    return code.flatMap(({ address, instruction }, i) => {
      const target = /^(?:j|b\.|t?b|cb)\S*\s.*?([0-9a-f]+) </.exec(instruction)?.[1]
      if (target === undefined || parseInt(target, 16) > address) return []
      const first = code.findIndex((at) => at.address === parseInt(target, 16))
      const body = first < begin ? [] : code.slice(first, i).map((at) => at.instruction)
      begin = i + 1
      const count = body.filter((line) => /^(fmla|vfmadd|vdpbf16ps)/.test(line)).length
      if (count < LEAST) return []
      return [{ tile, multiplyAdds: count, spills: body.filter((line) => SPILL.test(line)) }]
    })
  })
}
