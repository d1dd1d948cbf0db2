#!/usr/bin/env bash
# label: plan
# Every C++ file is as clang-format (14, the settings in .clang-format) writes it. Names the files that are not.
set -euo pipefail
root=${1:-$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")}
cd "$root"
tool=clang-format-14
if ! command -v "$tool" >/dev/null; then tool=clang-format; fi
if ! command -v "$tool" >/dev/null || [[ $("$tool" --version) != *"version 14."* ]]; then
  echo "SKIP: clang-format 14 is not here, and other versions lay some lines out differently"
  exit 77
fi
mapfile -t files < <(find kernels core parallel io cluster launch tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' \
  -o -name '*.cuh' | sort)
if ((${#files[@]} < 2)); then
  echo "found no C++ files under $root" >&2
  exit 1
fi
wrong=()
for file in "${files[@]}"; do
  if ! "$tool" "$file" | cmp -s - "$file"; then wrong+=("$file"); fi
done
if ((${#wrong[@]} > 0)); then
  echo "not as clang-format writes them (clang-format -i FILE puts it right):"
  printf '  %s\n' "${wrong[@]}"
  exit 1
fi
echo "${#files[@]} files are as clang-format writes them"
