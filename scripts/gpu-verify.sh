#!/bin/sh
# All that should be tried on a machine with a GPU, in under ten minutes: see gpu-verify.js, which gets the arguments.
#
#   scripts/gpu-verify.sh                 on a checkout after `npm ci`
#   scripts/gpu-verify.sh --pack FILE     elsewhere: Node and the npm packages that it needs, into FILE
#   scripts/gpu-verify.sh --tools FILE    on a machine with nvcc and CMake, but neither Node nor a registry
#
# A shell script, because such a machine need not have Node.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

if [ "${1:-}" = --pack ]; then
  [ $# -eq 2 ] || { echo 'gpu-verify: --pack needs a file' >&2; exit 2; }
  command -v node >/dev/null || { echo 'gpu-verify: node was not found; it is what gets packed' >&2; exit 2; }
  mkdir -p build
  cp "$(readlink -f "$(command -v node)")" build/node
  strip build/node 2>/dev/null || true
  # What lints, packs and documents stays at home.
  tar -c --exclude='node_modules/@arethetypeswrong' --exclude='node_modules/@typescript-eslint' \
    --exclude='node_modules/typescript' --exclude='node_modules/prettier' --exclude='node_modules/eslint*' \
    --exclude='node_modules/highlight.js' --exclude='*.map' build/node node_modules | xz -T0 -6 >"$2"
  rm build/node
  ls -l "$2"
  exit 0
fi

if [ "${1:-}" = --tools ]; then
  [ $# -ge 2 ] || { echo 'gpu-verify: --tools needs the file that --pack wrote' >&2; exit 2; }
  tar -xJf "$2"
  mkdir -p build/bin
  mv build/node build/bin/node
  PATH=$root/build/bin:$PATH
  shift 2
fi
command -v node >/dev/null || {
  echo 'gpu-verify: node was not found; carry it in a file made by --pack on a machine that has it' >&2
  exit 2
}
exec node scripts/gpu-verify.js "$@"
