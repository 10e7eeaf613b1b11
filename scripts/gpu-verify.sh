#!/bin/sh
# Runs all checks that require a GPU, in under ten minutes; gpu-verify.js has the details and gets the arguments.
#
#   scripts/gpu-verify.sh                 in a checkout after `npm ci`
#   scripts/gpu-verify.sh --pack FILE     on another machine: pack Node and the npm packages into FILE
#   scripts/gpu-verify.sh --tools FILE    on a machine with nvcc and CMake, but without Node or access to a registry
#
# A shell script, because the machine may not have Node.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

if [ "${1:-}" = --pack ]; then
  [ $# -eq 2 ] || { echo 'gpu-verify: --pack requires a file' >&2; exit 2; }
  command -v node >/dev/null || { echo 'gpu-verify: node was not found; --pack packs it' >&2; exit 2; }
  mkdir -p build
  cp "$(readlink -f "$(command -v node)")" build/node
  strip build/node 2>/dev/null || true
  # Packages that only lint, pack or document are left out.
  tar -c --exclude='node_modules/@arethetypeswrong' --exclude='node_modules/@typescript-eslint' \
    --exclude='node_modules/typescript' --exclude='node_modules/prettier' --exclude='node_modules/eslint*' \
    --exclude='node_modules/highlight.js' --exclude='*.map' build/node node_modules | xz -T0 -6 >"$2"
  rm build/node
  ls -l "$2"
  exit 0
fi

if [ "${1:-}" = --tools ]; then
  [ $# -ge 2 ] || { echo 'gpu-verify: --tools requires a file written by --pack' >&2; exit 2; }
  tar -xJf "$2"
  mkdir -p build/bin
  mv build/node build/bin/node
  PATH=$root/build/bin:$PATH
  shift 2
fi
command -v node >/dev/null || {
  echo 'gpu-verify: node was not found; write a file with --pack on a machine that has Node, and pass it to --tools' >&2
  exit 2
}
exec node scripts/gpu-verify.js "$@"
