# Sourced by the scripts beside it. Where things are cached, how progress is said, how packages are installed.
# shellcheck shell=bash
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# What is built is cached by the hash of its inputs, outside the checkout.
cache=${DORMOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dormouse}
bun_version=1.4.5

say() { printf '\033[2m[%s]\033[0m %s\n' "$(basename "$0")" "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# need_packages PACKAGE…: installs the Debian packages that are missing. Quick when all are there.
need_packages() {
  local missing=() p installed
  installed=$(dpkg-query -W -f='${Package} ${Status}\n' "$@" 2>/dev/null) || true
  for p in "$@"; do
    grep -q "^$p .*ok installed" <<<"$installed" || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  command -v apt-get >/dev/null || die "cannot install ${missing[*]}: this script knows Debian and Ubuntu only"
  [ "$(id -u)" = 0 ] || die "cannot install ${missing[*]}: run as root"
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  local log; log=$(mktemp)
  # Only indexes that lack a package are fetched anew.
  apt-cache show "${missing[@]}" >/dev/null 2>&1 || apt-get update -qq >"$log" 2>&1 || { cat "$log" >&2; die "apt-get update failed"; }
  if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    apt-get update -qq >>"$log" 2>&1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >>"$log" 2>&1 ||
      { tail -20 "$log" >&2; die "cannot install ${missing[*]}"; }
  fi
  rm -f "$log"
}

# need_bun: the version of bun that the project is built with, from npm. Quick when it is there.
need_bun() {
  [ "$(bun --version 2>/dev/null)" = "$bun_version" ] && return 0
  command -v npm >/dev/null || need_packages npm
  say "installing bun $bun_version"
  local log; log=$(mktemp)
  npm install --global --no-fund --no-audit "bun@$bun_version" >"$log" 2>&1 || { tail -20 "$log" >&2; die "cannot install bun $bun_version with npm"; }
  rm -f "$log"
  hash -r
  [ "$(bun --version 2>/dev/null)" = "$bun_version" ] || die "cannot use bun $bun_version: another 'bun' comes first in PATH ($(command -v bun))"
}

# need_modules: the npm packages that bun.lock names. Quick when they are there.
need_modules() {
  local stamp=$repo/node_modules/.installed want
  want=$(content_hash "$repo/package.json" "$repo/bun.lock")
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return 0
  say "installing npm packages"
  local log; log=$(mktemp)
  (cd "$repo" && bun install --frozen-lockfile) >"$log" 2>&1 || { tail -20 "$log" >&2; die "cannot install the npm packages"; }
  rm -f "$log"
  echo "$want" >"$stamp"
}

# content_hash FILE…: one short hash over the contents of the files, in the order given.
content_hash() { cat "$@" | sha256sum | cut -c1-16; }
