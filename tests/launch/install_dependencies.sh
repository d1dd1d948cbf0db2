#!/usr/bin/env bash
# label: plan
# launch/install-dependencies, with a distribution made of scripts: it asks before it acts, takes the alternative that
# exists, updates its lists once, and says plainly when it may not or cannot.
set -euo pipefail
root=$(dirname "$(dirname "$(dirname "$(readlink -f "$0")")")")
script=$root/launch/install-dependencies
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/bin" "$tree/rootless"
calls=$tree/calls

fail() {
  echo "$1"
  exit 1
}

# The distribution: $tree/installed holds what is installed, $tree/offered what could be.
cat >"$tree/bin/dpkg-query" <<FAKE
#!/bin/bash
sed 's/^/installed /' "$tree/installed"
FAKE
cat >"$tree/bin/apt-cache" <<FAKE
#!/bin/bash
if grep -qx "\$2" "$tree/offered"; then echo "  Candidate: 1.0"; else echo "  Candidate: (none)"; fi
FAKE
cat >"$tree/bin/apt-get" <<FAKE
#!/bin/bash
echo "apt-get \$*" >>"$calls"
FAKE
printf '#!/bin/bash\necho 0\n' >"$tree/bin/id"
printf '#!/bin/bash\necho 1000\n' >"$tree/rootless/id"
chmod +x "$tree"/bin/* "$tree"/rootless/*
for tool in bash env sed grep mktemp rm tail dirname; do ln -s "$(command -v "$tool")" "$tree/bin/$tool"; done

as_root() { PATH=$tree/bin "$script" "$@"; }
all=$(sed -n '/^build=(/,/^)/p;/^tests=(/,/^)/p' "$script" | grep -o '"[^"]*"' | tr -d '"' | sed 's/|.*//')

printf '%s\n' "$all" >"$tree/installed"
: >"$tree/offered"
: >"$calls"
as_root --tests
[[ ! -s $calls ]] || fail "nothing was missing, and yet apt-get ran: $(cat "$calls")"
as_root --check || fail "--check found something missing"

grep -v -e '^libdnnl-dev$' -e '^libboost-json-dev$' <<<"$all" >"$tree/installed"
printf '%s\n' libdnnl-dev libboost-json1.81-dev >"$tree/offered"
if as_root --check >"$tree/out"; then fail "--check did not see what is missing"; fi
grep -q libdnnl-dev "$tree/out" || fail "--check does not name libdnnl-dev"
[[ ! -s $calls ]] || fail "--check ran apt-get"
as_root >"$tree/out"
[[ $(grep -c ' update' "$calls") == 1 ]] || fail "the lists are to be updated once: $(cat "$calls")"
grep -q 'install .*libdnnl-dev libboost-json1.81-dev' "$calls" || fail "wrong packages: $(cat "$calls")"
if grep -q 'libgtest-dev' "$calls"; then fail "asked for test packages without --tests"; fi

echo libboost-json1.81-dev >>"$tree/installed"
echo libdnnl-dev >>"$tree/installed"
: >"$calls"
as_root
[[ ! -s $calls ]] || fail "an installed alternative does not count"

sed -i '/libdnnl-dev/d' "$tree/installed"
: >"$tree/offered"
if as_root >"$tree/out" 2>&1; then fail "a package that does not exist was installed"; fi
grep -q "no package 'libdnnl-dev'" "$tree/out" || fail "does not say which package is unknown: $(cat "$tree/out")"

: >"$calls"
if PATH=$tree/rootless:$tree/bin "$script" >"$tree/out" 2>&1; then fail "installed without root and without sudo"; fi
grep -q 'neither root nor has sudo' "$tree/out" || fail "does not say what to do without root: $(cat "$tree/out")"
grep -q 'apt-get install libdnnl-dev' "$tree/out" || fail "does not say what an administrator should install"
[[ ! -s $calls ]] || fail "apt-get ran without root"

rc=0
as_root --nonsense 2>/dev/null || rc=$?
[[ $rc == 64 ]] || fail "an unknown argument ended with $rc, not 64"
echo "asks before it acts"
