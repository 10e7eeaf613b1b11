/** A folder holds one save as a whole: after kills, with several processes and calls at once, and when a save fails. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { native } from '../../../lib/binding/native.js'
import { packageRoot } from '../../../lib/binding/root.js'
import { withFolderLock } from '../../../lib/checkpoint/disk/folder-lock.js'
import { replaceFiles } from '../../../lib/checkpoint/disk/replace-files.js'
import { AdamW, LilyModel, readPretrainedState, type SaveOptions } from '../../../lib/index.js'
import { CONFIG, goldenCopy, newFolder, TENSORS } from '../../support/checkpoint.js'
import { integer, randomFrom } from '../../support/random.js'
import { expectRefused } from '../../refusals/refused.js'

const COMPACT = 'adapter_model.compact.safetensors'
const FROZEN = 'adapter_frozen.json'
const OPTIMISER = 'optimiser.safetensors'
/** `npm run test:long` has many more. */
const KILLS = Number(process.env.LILY_TEST_KILLS ?? 16)
const SAVES = Number(process.env.LILY_TEST_SAVES ?? 25)

const formats = ['peft', 'compact'] as const
type Format = (typeof formats)[number]

const layers = [0, 1, 2].map((l) => ({ name: `layers.${l}.q_proj`, inFeatures: 24, outFeatures: 16 }))

/** As test/programs/saves.js makes them. */
function numbered(i: number): LilyModel {
  const model = LilyModel.create({ layers, config: { r: 4, scaling: i, targetModules: ['q_proj'] } })
  for (const { value } of model.parameters().values()) (value.data as Float32Array).fill(i)
  if (i % 2 === 0) model.freeze({ 'layers.1.q_proj': [i, -i] })
  return model
}

/** The number of the save that a folder holds; throws where it holds parts of several. */
async function numberIn(folder: string): Promise<number> {
  const model = await LilyModel.fromPretrained(folder)
  const i = model.config.scaling
  for (const [name, { value }] of model.parameters()) {
    expect(new Set(value.data as Float32Array), `${name} beside scaling ${i}`).toEqual(new Set([i]))
  }
  const frozen = model.layer('layers.1.q_proj').frozenWeights
  expect(frozen, `frozen weights beside scaling ${i}`).toEqual(i % 2 === 0 ? Float32Array.of(i, -i) : undefined)
  return i
}

function startSaves(folder: string, format: Format, first: number, count: number) {
  return start('saves', folder, format, first, count)
}

function start(program: string, ...args: (string | number)[]) {
  const words = [`test/programs/${program}.js`, ...args.map(String)]
  return spawn(process.execPath, words, { cwd: packageRoot, stdio: ['ignore', 'pipe', 'inherit'] })
}

describe('a folder holds one save as a whole', () => {
  it.each(formats)('after kills in mid-save, %s', { timeout: KILLS * 3000 + 60_000 }, async (format) => {
    const folder = newFolder()
    const random = randomFrom(format.length)
    await numbered(1).savePretrained(folder, { format })
    const seen = new Set<number>()
    for (let kill = 0; kill < KILLS / 2; kill++) {
      const child = startSaves(folder, format, 2 + kill * 10_000, 10_000)
      await once(child.stdout, 'data')
      await delay(integer(random, 0, 25))
      child.kill('SIGKILL')
      await once(child, 'exit')
      seen.add(await numberIn(folder))
    }
    expect(seen.size).toBeGreaterThan(1)
    // The next save removes what the kills have left.
    await numbered(7).savePretrained(folder, { format })
    expect(await numberIn(folder)).toBe(7)
    expect(readdirSync(folder).sort()).toEqual([format === 'peft' ? TENSORS : COMPACT, CONFIG].sort())
  })

  it.each(formats)(
    'with the optimiser: a training continues with the same bits after kills, %s',
    async (format) => {
      const [folder, uninterrupted] = [newFolder(), newFolder()]
      const random = randomFrom(format.length)
      const model = LilyModel.create({
        layers,
        config: { r: 4, initWeights: false, targetModules: ['q_proj'] },
        seed: 1,
      })
      const optimiser = new AdamW(model.parameters())
      for (const each of [folder, uninterrupted]) await model.savePretrained(each, { format, optimiser })
      for (let kill = 0; kill < KILLS / 2; kill++) {
        const child = start('trainings', folder, format, 1e6)
        const exited = once(child, 'exit')
        await Promise.race([once(child.stdout, 'data'), exited])
        await delay(integer(random, 0, 25))
        child.kill('SIGKILL')
        expect(await exited).toEqual([null, 'SIGKILL'])
      }
      const { step } = await readPretrainedState(folder, await LilyModel.fromPretrained(folder))
      expect(step).toBeGreaterThanOrEqual(KILLS / 2)
      for (const each of [folder, uninterrupted]) {
        expect(await once(start('trainings', each, format, step + 2), 'exit')).toEqual([0, null])
      }
      const names = readdirSync(folder).sort()
      expect(names).toEqual([format === 'peft' ? TENSORS : COMPACT, CONFIG, OPTIMISER].sort())
      for (const name of names) {
        expect(readFileSync(join(folder, name)).equals(readFileSync(join(uninterrupted, name))), name).toBe(true)
      }
    },
    KILLS * 3000 + 60_000,
  )

  it.each(formats)('while two processes save and one loads, %s', { timeout: 120_000 }, async (format) => {
    const folder = newFolder()
    await numbered(1).savePretrained(folder, { format })
    const children = [1000, 5000].map((first) => startSaves(folder, format, first, SAVES))
    const ended = Promise.all(children.map((child) => once(child, 'exit')))
    let running = true
    void ended.then(() => (running = false))
    const seen = new Set<number>()
    while (running) seen.add(await numberIn(folder))
    expect((await ended).map(([code]) => code as number)).toEqual([0, 0])
    expect([1000 + SAVES - 1, 5000 + SAVES - 1]).toContain(await numberIn(folder))
    expect(seen.size).toBeGreaterThan(1)
  })

  it('when two processes save in different formats', { timeout: 120_000 }, async () => {
    const folder = newFolder()
    const children = formats.map((format, i) => startSaves(folder, format, 1000 * (i + 1), SAVES))
    const codes = await Promise.all(children.map(async (child) => (await once(child, 'exit'))[0] as number))
    expect(codes).toEqual([0, 0])
    await numberIn(folder)
  })

  it('when calls of one process overlap: the last call wins', async () => {
    const folder = newFolder()
    const options = (i: number): SaveOptions => ({ format: formats[i % 2] })
    await Promise.all(Array.from({ length: 12 }, (_, i) => numbered(i + 1).savePretrained(folder, options(i))))
    expect(await numberIn(folder)).toBe(12)
  })

  it('when an adapter and its LoRA are saved into one folder at once', async () => {
    const folder = newFolder()
    const model = numbered(2)
    model.freeze('uniform')
    const lora = model.saveLora(folder)
    const lily = model.savePretrained(folder)
    // Whichever is first: LoRA never replaces an adapter.
    await lily
    await lora.catch(() => undefined)
    expect((await LilyModel.fromPretrained(folder)).config.scaling).toBe(2)
  })

  it('also of another format before', async () => {
    const folder = newFolder()
    await numbered(2).savePretrained(folder)
    expect(readdirSync(folder).sort()).toEqual([FROZEN, CONFIG, TENSORS].sort())
    await numbered(4).savePretrained(folder, { format: 'compact' })
    expect(readdirSync(folder).sort()).toEqual([CONFIG, COMPACT].sort())
    expect(await numberIn(folder)).toBe(4)
  })
})

describe('a save that was interrupted', () => {
  /** The files of save 5 as a crash leaves them beside those of save 3, with `done` of the renames made. */
  async function interrupted(done: number): Promise<string> {
    const [folder, other] = [newFolder(), newFolder()]
    await numbered(3).savePretrained(folder, { format: 'compact' })
    await numbered(5).savePretrained(other)
    const steps = [TENSORS, CONFIG].map((to) => ({
      from: `.${to}.lily-0123456789ab.tmp`,
      to,
      old: identityOf(join(folder, to)),
    }))
    for (const { from, to } of steps) copyFileSync(join(other, to), join(folder, from))
    const removals = [COMPACT, FROZEN].map((to) => ({ to, from: null, old: identityOf(join(folder, to)) }))
    writeFileSync(join(folder, '.lily-save.json'), JSON.stringify([...steps, ...removals]))
    for (const { from, to } of steps.slice(0, done)) renameSync(join(folder, from), join(folder, to))
    return folder
  }

  /** As the journal has it. */
  function identityOf(path: string): string | null {
    if (!existsSync(path)) return null
    const { ino, size, mtimeMs } = statSync(path)
    return `${ino} ${size} ${mtimeMs}`
  }

  it.each([CONFIG, COMPACT])('and whose %s another program has changed since is refused', async (name) => {
    const folder = await interrupted(0)
    writeFileSync(join(folder, name), 'of another program')
    await expectRefused('ERR_LILY_CHECKPOINT', `has since changed ${name}`, () => LilyModel.fromPretrained(folder))
    await expectRefused('ERR_LILY_CHECKPOINT', `has since changed ${name}`, () => numbered(1).savePretrained(folder))
    expect(readFileSync(join(folder, name), 'utf8')).toBe('of another program')
  })

  it.each([0, 1, 2])('after its journal and %d renames is read as completed, without a write', async (done) => {
    const folder = await interrupted(done)
    const before = readdirSync(folder)
    expect(await numberIn(folder)).toBe(5)
    expect(readdirSync(folder)).toEqual(before)
  })

  it.each([0, 1, 2])('after %d renames is completed before the next one', async (done) => {
    const folder = await interrupted(done)
    // Of one file alone, that is no part of the adapter.
    await replaceFiles(folder, [{ name: 'README.md', blocks: () => [Buffer.from('text')] }])
    expect(readdirSync(folder).sort()).toEqual(['README.md', CONFIG, TENSORS].sort())
    expect(await numberIn(folder)).toBe(5)
  })

  it('of a model of 500 files is completed before the next one', async () => {
    const folder = newFolder()
    const names = Array.from({ length: 500 }, (_, i) => `model-${String(i + 1).padStart(5, '0')}-of-00500.safetensors`)
    const steps = names.map((to) => {
      const from = `.${to}.lily-0123456789ab.tmp`
      writeFileSync(join(folder, to), 'old')
      writeFileSync(join(folder, from), 'new')
      return { from, to, old: identityOf(join(folder, to)) }
    })
    writeFileSync(join(folder, '.lily-save.json'), JSON.stringify(steps))
    await replaceFiles(folder, [{ name: 'README.md', blocks: () => [Buffer.from('text')] }])
    expect(readdirSync(folder).sort()).toEqual(['README.md', ...names])
    expect(new Set(names.map((name) => readFileSync(join(folder, name), 'utf8')))).toEqual(new Set(['new']))
  })

  it('whose journal names files elsewhere is refused', async () => {
    const folder = goldenCopy()
    for (const journal of [
      '{',
      '{}',
      [{ from: '../x', to: TENSORS, old: null }],
      [{ from: `.${TENSORS}.lily-0123456789ab.tmp`, to: '../x', old: null }],
      [{ from: '.../x.lily-0123456789ab.tmp', to: '../x', old: null }],
      [{ from: CONFIG, to: TENSORS, old: null }],
      [{ from: null, to: 'a/b', old: null }],
      [{ from: null, to: 'a', old: 1 }],
      { renames: [], removals: [] }, // as of earlier versions
    ]) {
      writeFileSync(join(folder, '.lily-save.json'), typeof journal === 'string' ? journal : JSON.stringify(journal))
      await expectRefused('ERR_LILY_CHECKPOINT', 'or into another folder', () => LilyModel.fromPretrained(folder))
      await expectRefused('ERR_LILY_CHECKPOINT', 'journal', () => numbered(1).savePretrained(folder))
    }
    rmSync(join(folder, '.lily-save.json'))
    await LilyModel.fromPretrained(folder)
  })

  it('by another user is read, and not completed', async ({ skip }) => {
    if (process.getuid?.() !== 0) skip('only root gives files away')
    const folder = await interrupted(1)
    chownSync(join(folder, '.lily-save.json'), 12345, 12345)
    expect(await numberIn(folder)).toBe(5)
    await expectRefused('ERR_LILY_CHECKPOINT', 'belongs to the interrupted save of another user', () =>
      numbered(1).savePretrained(folder),
    )
    expect(await numberIn(folder)).toBe(5)
  })

  it('leaves temporary files that the next save removes, and no others', async () => {
    const folder = goldenCopy()
    const stale = [`.${TENSORS}.lily-00112233aabb.tmp`, `.${CONFIG}.lily-ffffffffffff.tmp`]
    const others = ['.adapter_config.json.swp', 'notes.tmp', '.x.0123456789ab.tmp']
    for (const name of [...stale, ...others]) writeFileSync(join(folder, name), 'x')
    await (await LilyModel.fromPretrained(folder)).savePretrained(folder)
    expect(readdirSync(folder).sort()).toEqual([CONFIG, TENSORS, ...others].sort())
  })

  it('leaves files that the next save removes before it writes its own: the disk may have no room for both', async () => {
    const folder = await interrupted(1)
    writeFileSync(join(folder, `.${TENSORS}.lily-00112233aabb.tmp`), 'x')
    let beside: string[] = []
    const blocks = () => {
      beside = readdirSync(folder).filter((name) => !name.startsWith('.README.md.'))
      return [Buffer.from('text')]
    }
    await replaceFiles(folder, [{ name: 'README.md', blocks }])
    expect(beside.sort()).toEqual([CONFIG, TENSORS].sort())
    expect(await numberIn(folder)).toBe(5)
  })
})

/** Locks a folder as a load does; returns what ends it. */
async function startToRead(folder: string): Promise<() => Promise<void>> {
  if (process.platform !== 'win32') {
    const reader = await open(folder)
    expect(native.fileLock(reader.fd, false)).toBe(true)
    return () => reader.close()
  }
  // What is locked there is another file.
  let finish = () => {}
  const finished = new Promise<void>((resolve) => (finish = resolve))
  return new Promise((resolve, reject) => {
    const reading = withFolderLock(folder, 'shared', () => {
      resolve(() => {
        finish()
        return reading
      })
      return finished
    })
    reading.catch(reject)
  })
}

it('a save replaces nothing while the folder is being read', async () => {
  const folder = newFolder()
  await numbered(3).savePretrained(folder)
  const finish = await startToRead(folder)
  const save = numbered(5).savePretrained(folder)
  expect(await Promise.race([save.then(() => 'saved'), delay(300, 'waiting')])).toBe('waiting')
  expect(await numberIn(folder)).toBe(3)
  await finish()
  await save
  expect(await numberIn(folder)).toBe(5)
})

describe('a save that fails', () => {
  it('leaves the tensors where the configuration cannot be replaced', async () => {
    const folder = newFolder()
    await numbered(3).savePretrained(folder)
    const tensors = readFileSync(join(folder, TENSORS))
    rmSync(join(folder, CONFIG))
    mkdirSync(join(folder, CONFIG))
    await expectRefused('ERR_LILY_CHECKPOINT', 'got a folder', () => numbered(5).savePretrained(folder))
    expect(readFileSync(join(folder, TENSORS)).equals(tensors)).toBe(true)
    expect(readdirSync(folder).sort()).toEqual([CONFIG, TENSORS].sort())
  })

  it('leaves an adapter of the other format where a file of it cannot be removed', async () => {
    const folder = newFolder()
    await numbered(3).savePretrained(folder, { format: 'compact' })
    mkdirSync(join(folder, FROZEN))
    await expectRefused('ERR_LILY_CHECKPOINT', 'got a folder', () => numbered(5).savePretrained(folder))
    rmdirSync(join(folder, FROZEN))
    expect(await numberIn(folder)).toBe(3)
    expect(readdirSync(folder).sort()).toEqual([CONFIG, COMPACT].sort())
  })

  it('puts back what it has replaced', async () => {
    const folder = newFolder()
    const text = (name: string, content: string) => ({ name, blocks: () => [Buffer.from(content)] })
    await replaceFiles(folder, [text('a', 'old a'), text('b', 'old b'), text('d', 'old d')])
    const failing = replaceFiles(
      folder,
      [
        text('a', 'new a'),
        text('c', 'new c'),
        {
          name: 'b',
          blocks: () => [],
          check: async () => {
            // The rename of this file will find nothing.
            const own = readdirSync(folder).find((name) => name.startsWith('.b.'))!
            await rm(join(folder, own))
          },
        },
      ],
      ['d'],
    )
    await expectRefused('ERR_LILY_CHECKPOINT', 'ENOENT', () => failing)
    expect(readdirSync(folder).sort()).toEqual(['a', 'b', 'd'])
    expect(['a', 'b', 'd'].map((name) => readFileSync(join(folder, name), 'utf8'))).toEqual(['old a', 'old b', 'old d'])
  })
})

it('keeps the permissions of the files that it replaces', async ({ skip }) => {
  skip(process.platform === 'win32', 'files of Windows have no such permissions')
  const folder = newFolder()
  await numbered(3).savePretrained(folder)
  chmodSync(join(folder, TENSORS), 0o640)
  chmodSync(join(folder, CONFIG), 0o604)
  await numbered(5).savePretrained(folder)
  expect([TENSORS, CONFIG].map((name) => statSync(join(folder, name)).mode & 0o777)).toEqual([0o640, 0o604])
})
