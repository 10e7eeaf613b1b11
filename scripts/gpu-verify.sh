#!/bin/sh
# Runs all checks that require a GPU, in under ten minutes; gpu-verify.js has the details and gets the arguments.
#
#   scripts/gpu-verify.sh                 in a checkout after `npm ci`
#   scripts/gpu-verify.sh --pack FILE     in such a checkout on another machine: pack Node, the npm packages and dist/
#                                         into FILE
#   scripts/gpu-verify.sh --tools FILE    on a machine with nvcc and CMake, but without Node or access to a registry
#
# A shell script, because the machine may not have Node.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

if [ "${1:-}" = --pack ]; then
  [ $# -eq 2 ] || { echo 'gpu-verify: --pack requires a file' >&2; exit 2; }
  command -v node >/dev/null || { echo 'gpu-verify: node was not found; --pack packs it' >&2; exit 2; }
  [ -f node_modules/tsdown/dist/run.mjs ] || { echo 'gpu-verify: --pack builds dist/: run npm ci first' >&2; exit 2; }
  # Tests import the built package.
  node node_modules/tsdown/dist/run.mjs
  # Machines with a GPU may take a few ten MB only: what lints, packs, documents, or runs in a browser is left out.
  pack=build/pack
  rm -rf $pack
  mkdir -p $pack/build
  cp "$(readlink -f "$(command -v node)")" $pack/build/node
  strip $pack/build/node 2>/dev/null || true
  cp package.json package-lock.json $pack
  (
    cd $pack
    for each in @arethetypeswrong/cli @eslint/js @mdit/plugin-katex @tensorflow/tfjs @tensorflow/tfjs-backend-cpu \
      @tensorflow/tfjs-backend-wasm @tensorflow/tfjs-backend-webgpu @tensorflow/tfjs-core @tensorflow/tfjs-layers axe-core \
      cmake-js concurrently cspell dependency-cruiser eslint katex playwright-core prebuildify prettier publint \
      rolldown-license-plugin tsdown typedoc typedoc-plugin-markdown typedoc-vitepress-theme typescript typescript-eslint \
      vitepress webgpu; do
      npm pkg delete "devDependencies.$each"
    done
    npm install --ignore-scripts --no-audit --no-fund
  )
  tar -C $pack -cf $pack/tools.tar --exclude='*.map' --exclude='*.d.ts' build/node node_modules
  tar -rf $pack/tools.tar --exclude='*.d.ts' --exclude='*.d.cts' --exclude=dist/browser dist
  xz -T0 -6 -c $pack/tools.tar >"$2"
  rm -r $pack
  ls -l "$2"
  exit 0
fi

if [ "${1:-}" = --tools ]; then
  [ $# -ge 2 ] || { echo 'gpu-verify: --tools requires a file written by --pack' >&2; exit 2; }
  # Not every machine with PyTorch has xz.
  if command -v xz >/dev/null; then tar -xJf "$2"; else python3 -m tarfile -e "$2"; fi
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
