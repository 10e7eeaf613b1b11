#!/bin/sh
# Runs the checks that require a GPU; gpu-verify.js describes them and gets all other arguments.
#
#   scripts/gpu-verify.sh [--out OUT] [--only NAME,...]   in a checkout that is built (`npm run build`), or in an unpacked
#                                                         archive
#   scripts/gpu-verify.sh --pack FILE [--architecture SM] write an archive for a machine with a GPU of compute capability SM
#                                                         (default: 90), and nothing but its driver: the library and the addon,
#                                                         Node, dist/, the npm packages that the checks require, and the sources
#   scripts/gpu-verify.sh --packed FILE ...               unpack such an archive into build/packed, unless it is there, and run
#                                                         the rest of the arguments there
#
# A shell script, because the machine may not have Node.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)

fail() {
  echo "gpu-verify: $1" >&2
  exit 2
}

pack() {  # FILE SM
  command -v node >/dev/null || fail 'node was not found; --pack packs it'
  case $2 in [789][0-9] | 1[0-9][0-9]) ;; *) fail "--architecture requires a compute capability such as 90; got $2" ;; esac
  cd "$root"
  [ -f node_modules/tsdown/dist/run.mjs ] || fail '--pack builds dist/: run npm ci first'
  pack=$root/build/pack
  mkdir -p "$pack/build/bin" "$pack/build/plans" "$pack/build/compare"
  code=$(node --input-type=module -e "
    import { codeOf, targetOf } from './scripts/cuda-targets.js'
    console.log(codeOf({ ...targetOf($2), real: [$2], hasPtx: false }))")
  # A libstdc++ as old as possible, as for the published addon.
  [ -n "${CXX:-}" ] || ! command -v g++-12 >/dev/null || export CXX=g++-12
  (cd "$pack" && LILY_CMAKE_ARGS="-DLILY_CUDA=ON -DLILY_AMX_MODEL=OFF -DLILY_CUDA_TARGETS=$code" node "$root/scripts/build-native.js")
  cp build/plans/lily_print_plans "$pack/build/plans/"
  sh scripts/compare-emulator.sh --prepare "$2"
  (cd build/compare && cp numerics matrix_product instructions emulator.txt "$pack/build/compare/")
  cp "$(readlink -f "$(command -v node)")" "$pack/build/bin/node"
  strip "$pack/build/bin/node" "$pack"/build/Release/* 2>/dev/null || true
  # Tests import the built package.
  node node_modules/tsdown/dist/run.mjs
  # What lints, packs, documents, or runs in a browser is left out.
  cp package.json package-lock.json "$pack"
  (
    cd "$pack"
    for each in @arethetypeswrong/cli @eslint/js @mdit/plugin-katex @tensorflow/tfjs @tensorflow/tfjs-backend-cpu \
      @tensorflow/tfjs-backend-wasm @tensorflow/tfjs-backend-webgpu @tensorflow/tfjs-core @tensorflow/tfjs-layers axe-core \
      cmake-js concurrently cspell dependency-cruiser eslint katex playwright-core prebuildify prettier publint \
      rolldown-license-plugin tsdown typedoc typedoc-plugin-markdown typedoc-vitepress-theme typescript typescript-eslint \
      vitepress webgpu; do
      npm pkg delete "devDependencies.$each"
    done
    npm install --ignore-scripts --no-audit --no-fund
  )
  rm -f "$pack/pack.tar"
  git ls-files -z | tar -cf "$pack/pack.tar" --null -T -
  tar -rf "$pack/pack.tar" --exclude='*.d.ts' --exclude='*.d.cts' --exclude=dist/browser dist
  tar -C "$pack" -rf "$pack/pack.tar" --exclude='*.map' --exclude='*.d.ts' --exclude='*.d.mts' --exclude='*.d.cts' \
    build/bin build/plans build/compare build/Release node_modules
  xz -T0 -6 -c "$pack/pack.tar" >"$1"
  ls -l "$1"
  # What may be carried to a machine with a GPU is limited.
  [ "$(wc -c <"$1")" -lt $((60 * 1024 * 1024)) ] || fail "$1 has more than 60 MiB"
}

if [ "${1:-}" = --pack ]; then
  [ $# -eq 2 ] || { [ $# -eq 4 ] && [ "$3" = --architecture ]; } || fail '--pack requires a file, and may have --architecture SM'
  case $2 in /*) file=$2 ;; *) file=$PWD/$2 ;; esac
  pack "$file" "${4:-90}"
  exit 0
fi

if [ "${1:-}" = --packed ]; then
  [ $# -ge 2 ] || fail '--packed requires a file written by --pack'
  packed=$root/build/packed
  stamp="$(wc -c <"$2") $(cksum <"$2")"
  if [ "$(cat "$packed/stamp" 2>/dev/null)" != "$stamp" ]; then
    rm -rf "$packed"
    mkdir -p "$packed"
    # Not every machine with PyTorch has xz.
    if command -v xz >/dev/null; then tar -C "$packed" -xJf "$2"; else python3 -m tarfile -e "$2" "$packed"; fi
    echo "$stamp" >"$packed/stamp"
  fi
  shift 2
  # Results stay with the checkout.
  case " $* " in *' --out '*) ;; *) set -- --out "$root/build/gpu-verify" "$@" ;; esac
  exec sh "$packed/scripts/gpu-verify.sh" "$@"
fi

[ ! -x "$root/build/bin/node" ] || PATH=$root/build/bin:$PATH
command -v node >/dev/null ||
  fail 'node was not found; write an archive with --pack on a machine that has Node, and pass it to --packed'
exec node "$root/scripts/gpu-verify.js" "$@"
