#!/usr/bin/env bash
# label: plan
# The checks of the house can fail: each rule is broken once in a small tree of its own, and must be named.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{kernels,core,parallel,io,cluster,launch,tests}
cp "$here/../../.clang-format" "$tree/"

clean() {
  printf '#pragma once\n// A clean header: printf("x") and exit(1) in a comment or a string are no calls.\n' >"$tree/core/a.h"
  printf '#include "core/a.h"\n\nconst char* kText = "std::cout exit(1)";\n' >"$tree/core/a.cpp"
  printf '#include <cstdio>\n\n#include "core/a.h"\n\nvoid speak() { std::printf("x"); }\n' >"$tree/launch/a.cpp"
}
expect_named() {
  local what=$1
  local output
  if output=$("$here/house_floors.py" "$tree"); then
    echo "not found: $what"
    exit 1
  fi
  if [[ $output != *"$what"* ]]; then
    echo "wanted '$what' in: $output"
    exit 1
  fi
  clean
}

clean
"$here/house_floors.py" "$tree"
echo '#include "launch/a.h"' >>"$tree/core/a.cpp"
expect_named "floor core includes launch/a.h"
echo '#include "io/a.h"' >>"$tree/parallel/b.cpp"
expect_named "floor parallel includes io/a.h"
rm "$tree/parallel/b.cpp"
echo '#include "../core/a.h"' >>"$tree/core/a.cpp"
expect_named "full path"
echo 'void f() { std::printf("x"); }' >>"$tree/core/a.cpp"
expect_named "only launch/ prints"
echo 'void f() { std::exit(1); }' >>"$tree/core/a.cpp"
expect_named "only launch/ ends the process"
echo 'int f();' >"$tree/core/a.h"
expect_named "#pragma once"
printf '// %s: later\n' "TO""DO" >>"$tree/core/a.cpp"
expect_named "an open end"
echo '#!/bin/sh' >"$tree/launch/start"
expect_named "launch/start: a script without its execute bit"
rm "$tree/launch/start"

rc=0
"$here/house_format.sh" "$tree" || rc=$?
if ((rc == 77)); then exit 0; fi
if ((rc != 0)); then
  echo "a clean tree was called badly laid out"
  exit 1
fi
printf 'int   f( ) ;\n' >>"$tree/core/a.cpp"
if "$here/house_format.sh" "$tree" >"$tree/out"; then
  echo "a badly laid out file was not found"
  exit 1
fi
grep -q core/a.cpp "$tree/out"
echo "each rule, broken, was found"
