#!/bin/sh
# Compares the emulator with a GPU: builds the programs of emulator/kernels for both, runs them on both, and compares
# the results that they print (emulator/kernels/print.h), to the bit where they are exact.
#
#   scripts/compare-emulator.sh                    on a machine with a GPU, nvcc and CMake
#   scripts/compare-emulator.sh --record FILE      write the GPU's results to FILE; does not need CMake
#   scripts/compare-emulator.sh --against FILE     compare the emulator with recorded results; does not need a GPU
#   scripts/compare-emulator.sh --prepare SM       build the programs for GPUs of compute capability SM, and record the emulator's
#                                                  results, in build/compare; does not need a GPU
#   scripts/compare-emulator.sh --prepared         compare a GPU with these results; needs neither nvcc nor CMake. Builds
#                                                  what is missing
#   scripts/compare-emulator.sh --emulated-twice   use the emulator on both sides, to test this script
#     --wrong PROGRAM:CASE                         change one result in each line of the case on the first side, which
#                                                  must be detected; may be repeated
#
# A shell script with awk, because a machine with a GPU may not have Node. Exit code 0: all results agree; 1: there are
# differences; 2: nothing could be compared.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
emulator=$root/build/emulator
folder=$root/build/compare
cases='
numerics:reduction numerics:softmax numerics:layer_norm numerics:streams numerics:spaces
matrix_product:half matrix_product:bfloat16
instructions:integers instructions:floats instructions:conversions instructions:warps
instructions:approximations instructions:ampere instructions:hopper instructions:movement
instructions:products instructions:warpgroups'

fail() {
  echo "compare-emulator: $1" >&2
  exit 2
}

device=gpu record= against= wrong= prepare= prepared=
while [ $# -gt 0 ]; do
  case $1 in
    --record) [ $# -gt 1 ] || fail "$1 requires a file"; record=$2; shift ;;
    --against) [ $# -gt 1 ] || fail "$1 requires a file"; against=$2; shift ;;
    --prepare) [ $# -gt 1 ] || fail "$1 requires a compute capability: 75, 90, ..."; prepare=$2; shift ;;
    --prepared) prepared=$folder/emulator.txt ;;
    --emulated-twice) device=emulator ;;
    --wrong) [ $# -gt 1 ] || fail "$1 requires PROGRAM:CASE"; wrong="$wrong $2"; shift ;;
    *) fail "unknown option $1" ;;
  esac
  shift
done
[ -z "$record" ] || [ -z "$against" ] || fail '--record and --against cannot be combined'

# Prints the lines of all cases, each after "PROGRAM:CASE" and a tab, and the exit code of each case.
run_all() {  # FOLDER WRONG_CASES
  for each in $cases; do
    # Turing has no bfloat16.
    [ "$each $architecture" != 'matrix_product:bfloat16 75' ] || continue
    option=--print
    case "$2 " in *" $each "*) option=--print-wrong ;; esac
    output=$("$1/${each%%:*}" "${each#*:}" $option)
    code=$?
    printf '%s\n' "$output" | awk -F '\t' -v name="$each" '/^(exact|near)\t/ { print name FS $0 }'
    printf '%s\texit\t%s\n' "$each" "$code"
  done
}

run_emulator() {  # SEED WRONG_CASES
  LD_LIBRARY_PATH=$emulator LILY_EMULATOR_ARCH=$architecture LILY_EMULATOR_SEED=$1 run_all "$emulator/kernels" "$2"
}

build_emulator() {
  command -v cmake >/dev/null || fail 'cmake was not found; the emulator requires it'
  cmake -S "$root/emulator" -B "$emulator" >"$folder/build.log" 2>&1 &&
    cmake --build "$emulator" --target emulator_tests --parallel "$(nproc)" >>"$folder/build.log" 2>&1 ||
    fail "building the emulator failed: see $folder/build.log"
  [ -x "$emulator/kernels/instructions" ] || fail "the test programs were not built: see $folder/build.log"
}

build_for_gpu() {
  command -v nvcc >/dev/null || fail 'nvcc was not found; the programs for the GPU require it'
  # sm_90 leaves out the instructions that only Hopper has.
  target=-arch=sm_$architecture
  [ "$architecture" != 90 ] || target=-gencode=arch=compute_90a,code=sm_90a
  for program in numerics matrix_product instructions; do
    nvcc -std=c++17 -O2 $target -cudart static -o "$folder/$program" \
      "$root/emulator/kernels/$program.cu" || fail "building $program failed"
  done
}

mkdir -p "$folder"
if [ -n "$prepare" ]; then
  architecture=$prepare
  build_for_gpu
  build_emulator
  { echo "architecture $architecture"; run_emulator 1 ''; } >"$folder/emulator.txt"
  exit 0
fi
first=$folder/first.txt second=$folder/second.txt

if [ -n "$against" ]; then
  [ -r "$against" ] || fail "cannot read $against"
  architecture=$(awk '$1 == "architecture" { print $2 }' "$against")
  [ -n "$architecture" ] || fail "$against was not written by --record"
  first=$against
elif [ "$device" = emulator ]; then
  architecture=${LILY_EMULATOR_ARCH:-80}
  build_emulator
  { echo "architecture $architecture"; run_emulator 5 "$wrong"; } >"$first"
else
  command -v nvidia-smi >/dev/null ||
    fail 'nvidia-smi was not found, so there is no GPU; --emulated-twice tests the script without one'
  architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
  [ -n "$architecture" ] || fail 'nvidia-smi reports no GPU'
  if [ -n "$prepared" ] && [ "$(head -n 1 "$prepared" 2>/dev/null)" != "architecture $architecture" ]; then prepared=; fi
  [ -n "$prepared" ] || build_for_gpu
  { echo "architecture $architecture"; run_all "$folder" "$wrong"; } >"$first"
fi

if [ -n "$record" ]; then
  [ "$first" = "$record" ] || cp "$first" "$record" || fail "cannot write $record"
  echo "recorded $(grep -c . "$record") lines for compute capability $architecture"
  exit 0
fi

if [ -n "$prepared" ]; then
  second=$prepared
else
  [ "$device" = emulator ] && [ -z "$against" ] || build_emulator
  run_emulator 1 '' >"$second"
fi

awk -F '\t' '
  function differ(text) { printf "DIFFERS %s\n", text; differences++ }
  function is_number(text) { return text !~ /[Nn][Aa][Nn]|[Ii][Nn][Ff]/ }
  function magnitude(x) { return x < 0 ? -x : x }
  # Compares the bounds and values of a line with those of the other side.
  function compare_near(where, mine, other,    i, error, bound, worst) {
    split(other, theirs, FS)
    split(mine, ours, FS)
    if (theirs[4] != ours[4] || theirs[5] != ours[5] || split(other, theirs, FS) != split(mine, ours, FS)) {
      differ(where ": the bounds or the numbers of values differ")
      return
    }
    worst = 0
    for (i = 6; i in ours; i++) {
      values++
      if (ours[i] == theirs[i]) continue
      if (!is_number(ours[i]) || !is_number(theirs[i])) {
        differ(where ": value " i - 6 " is " theirs[i] " and " ours[i])
        return
      }
      error = magnitude(ours[i] - theirs[i])
      bound = magnitude(ours[i]) > magnitude(theirs[i]) ? magnitude(ours[i]) : magnitude(theirs[i])
      bound = ours[5] + ours[4] * bound
      if (error > bound) {
        differ(where ": value " i - 6 " is " theirs[i] " and " ours[i] ": difference " error ", bound " bound)
        return
      }
      if (bound > 0 && error / bound > worst) worst = error / bound
    }
    near++
    if (worst > 0) printf "near    %s: %.2g of the bound\n", where, worst
  }
  FNR == 1 { file++ }
  NF < 3 { next }
  { key = $2 == "exit" ? $1 FS "exit" : $1 FS $2 FS $3 }
  file == 1 { line[key] = $0; order[++count] = key; next }
  !(key in line) { differ($1 ", " $3 ": only on the emulator"); next }
  {
    seen[key] = 1
    where = $1 ", " $3
    if ($2 == "exit" && line[key] != $0) differ($1 ": the exit codes differ")
    if ($2 == "exit" && $3 != 0) differ($1 ": the exit code on the emulator is " $3)
    if ($2 == "exact" && line[key] != $0) differ(where ": the bits differ")
    if ($2 == "exact" && line[key] == $0) exact++
    if ($2 == "near") compare_near(where, $0, line[key])
  }
  END {
    for (i = 1; i <= count; i++) if (!(order[i] in seen)) differ(order[i] ": only on the first side")
    printf "%d exact results agree, ", exact
    printf "%d approximate results with %d values, %d differences\n", near, values, differences
    if (differences == 0 && (exact == 0 || near == 0)) { print "nothing was compared"; exit 2 }
    exit differences > 0
  }' "$first" "$second"
