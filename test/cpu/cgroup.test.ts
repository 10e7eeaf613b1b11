/** The CPU quota that limits the default number of threads, from fake trees of control groups. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { beforeAll, expect, test } from 'vitest'
import { compileProgram } from '../support/compile.js'
import { temporaryFolder } from '../support/temporary.js'

const folder = temporaryFolder()
let program: string
beforeAll(() => {
  program = compileProgram('cgroup', ['system/linux/cgroup.cc'], folder)
})

const v2 = (root: string, point = '/sys/fs/cgroup') => `31 23 0:28 ${root} ${point} rw shared:4 - cgroup2 cgroup2 rw\n`
const v1 = (root: string, point: string, controllers: string) =>
  `32 31 0:29 ${root} ${point} rw - cgroup cgroup rw,${controllers}\n`
const quota = (microseconds: number) => ({
  'cpu.cfs_quota_us': `${microseconds}\n`,
  'cpu.cfs_period_us': '100000\n',
})
const max = (text: string) => ({ 'cpu.max': `${text}\n` })

interface Tree {
  cgroup?: string
  mounts?: string
  /** Files of a group by its folder. */
  groups?: Record<string, Record<string, string>>
}

const trees: Record<string, [expected: number, Tree]> = {
  'no control groups': [0, {}],
  'version 2, no quota': [0, { cgroup: '0::/a\n', mounts: v2('/'), groups: { '/sys/fs/cgroup/a': max('max 100000') } }],
  'version 2, the group itself': [
    3,
    {
      cgroup: '0::/a/b\n',
      mounts: v2('/'),
      groups: { '/sys/fs/cgroup/a/b': max('350000 100000'), '/sys/fs/cgroup/a': max('max 100000') },
    },
  ],
  'version 2, a group above it': [
    2,
    {
      cgroup: '0::/a/b/c\n',
      mounts: v2('/'),
      groups: {
        '/sys/fs/cgroup/a/b/c': max('max 100000'),
        '/sys/fs/cgroup/a/b': max('800000 100000'),
        '/sys/fs/cgroup/a': max('100000 50000'),
        // Not on the path.
        '/sys/fs/cgroup/a/b/other': max('100000 100000'),
        '/sys/fs/cgroup/a/bc': max('100000 100000'),
      },
    },
  ],
  'version 2, in a namespace: the group is the root of the mount': [
    4,
    { cgroup: '0::/\n', mounts: v2('/'), groups: { '/sys/fs/cgroup': max('400000 100000') } },
  ],
  'version 2, the mount shows a part of the path': [
    5,
    {
      cgroup: '0::/docker/1234/worker\n',
      mounts: v2('/docker/1234'),
      groups: { '/sys/fs/cgroup/worker': max('900000 100000'), '/sys/fs/cgroup': max('500000 100000') },
    },
  ],
  'version 2, a mount whose root only begins like the path': [
    6,
    {
      cgroup: '0::/docker/1234\n',
      mounts: v2('/docker/12', '/mnt/other') + v2('/docker/1234'),
      groups: { '/mnt/other': max('100000 100000'), '/sys/fs/cgroup': max('600000 100000') },
    },
  ],
  'version 2, the path is not visible in the container': [
    2,
    { cgroup: '0::/kubepods/pod1/abc\n', mounts: v2('/'), groups: { '/sys/fs/cgroup': max('200000 100000') } },
  ],
  'version 2, the path is outside of the namespace': [
    2,
    {
      cgroup: '0::/../../other\n',
      mounts: v2('/'),
      groups: { '/sys/fs/cgroup': max('200000 100000'), '/sys/other': max('100000 100000') },
    },
  ],
  'version 2, below one processor': [
    1,
    { cgroup: '0::/a\n', mounts: v2('/'), groups: { '/sys/fs/cgroup/a': max('50000 100000') } },
  ],
  'version 1, the group itself': [
    2,
    {
      cgroup: '5:cpuset:/x\n4:cpu,cpuacct:/a/b\n0::/c\n',
      mounts: v1('/', '/sys/fs/cgroup/cpuset', 'cpuset') + v1('/', '/sys/fs/cgroup/cpu,cpuacct', 'cpu,cpuacct'),
      groups: {
        '/sys/fs/cgroup/cpu,cpuacct/a/b': quota(250000),
        '/sys/fs/cgroup/cpu,cpuacct/a': quota(-1),
        '/sys/fs/cgroup/cpu,cpuacct/x': quota(100000),
        '/sys/fs/cgroup/cpuset/x': quota(100000),
      },
    },
  ],
  'version 1, a group above it': [
    3,
    {
      cgroup: '4:cpu:/a/b\n',
      mounts: v1('/', '/sys/fs/cgroup/cpu', 'cpu'),
      groups: { '/sys/fs/cgroup/cpu/a/b': quota(-1), '/sys/fs/cgroup/cpu/a': quota(300000) },
    },
  ],
  'version 1, in a container without a namespace': [
    7,
    {
      cgroup: '4:cpu:/docker/1234\n',
      mounts: v1('/docker/1234', '/sys/fs/cgroup/cpu', 'cpu'),
      groups: { '/sys/fs/cgroup/cpu': quota(700000) },
    },
  ],
  'version 1, the path is not visible in the container': [
    3,
    {
      cgroup: '4:cpu:/system.slice/docker\n',
      mounts: v1('/docker/1234', '/sys/fs/cgroup/cpu', 'cpu'),
      groups: { '/sys/fs/cgroup/cpu': quota(300000) },
    },
  ],
  'both versions: the smaller quota': [
    2,
    {
      cgroup: '4:cpu:/a\n0::/b\n',
      mounts: v1('/', '/sys/fs/cgroup/cpu', 'cpu') + v2('/', '/sys/fs/cgroup/unified'),
      groups: { '/sys/fs/cgroup/cpu/a': quota(200000), '/sys/fs/cgroup/unified/b': max('400000 100000') },
    },
  ],
  'a mount point with a space': [
    4,
    { cgroup: '0::/a\n', mounts: v2('/', '/my\\040groups'), groups: { '/my groups/a': max('400000 100000') } },
  ],
}

test.each(Object.entries(trees))('%s', (name, [expected, { cgroup, mounts, groups = {} }]) => {
  const root = join(folder, name.replaceAll(/\W/g, '-'))
  const write = (path: string, text: string) => {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  if (cgroup !== undefined) write('/proc/self/cgroup', cgroup)
  if (mounts !== undefined) write('/proc/self/mountinfo', mounts)
  for (const [group, files] of Object.entries(groups))
    for (const [file, text] of Object.entries(files)) write(join(group, file), text)
  expect(execFileSync(program, [root], { encoding: 'utf8' })).toBe(`${expected}\n`)
})
