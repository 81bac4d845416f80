#!/bin/bash
# The relocatable tree is whole: every library it needs is in it or is glibc's, it
# asks for no newer glibc than Debian 12 has, and the programs start from it, in a
# root with nothing else where that can be made.
#
#   tests/dist_test.sh SOURCE_DIR BUILD_DIR
set -uo pipefail

source_dir=$1
build=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failures=0
fail() { echo "FAIL: $*"; failures=$((failures + 1)); }

cd "$source_dir"
tree=$(scripts/dist --no_tarball "$build" "$scratch/out") || { echo "FAIL: scripts/dist"; exit 1; }

# Libraries.
glibc='^(libc\.so\.6|libm\.so\.6|libpthread\.so\.0|libdl\.so\.2|librt\.so\.1|ld-linux-x86-64\.so\.2)$'
host_glibc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
newest_allowed=2.36
for file in "$tree"/bin/* "$tree"/lib/*; do
  dynamic=$(readelf --dynamic --wide "$file")
  for soname in $(sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' <<< "$dynamic"); do
    [[ "$soname" =~ $glibc || -f "$tree/lib/$soname" ]] ||
      fail "${file#"$tree"/} needs $soname, which is not in lib/"
  done
  grep --quiet '(RUNPATH)' <<< "$dynamic" &&
    fail "${file#"$tree"/} has a RUNPATH, which hides lib/ from what it loads"
  newest=$(readelf --version-info --wide "$file" | grep -o 'GLIBC_[0-9][0-9.]*' |
    sed 's/GLIBC_//' | sort --version-sort | tail -1)
  if [[ "$(printf '%s\n' "$host_glibc" "$newest_allowed" | sort -V | head -1)" == "$host_glibc" &&
        "$(printf '%s\n' "$newest" "$newest_allowed" | sort -V | tail -1)" != "$newest_allowed" ]]; then
    fail "${file#"$tree"/} needs glibc $newest"
  fi
done
for program in tttd ttt ttt_engine_bench ttt_op_bench; do
  readelf --dynamic --wide "$tree/bin/$program" | grep --quiet '(RPATH).*\[\$ORIGIN/../lib\]' ||
    fail "bin/$program does not look in its own lib/"
  readelf --sections --wide "$tree/bin/$program" | grep --quiet '\.debug_info' &&
    fail "bin/$program is not stripped"
done

# Licences.
for source in abseil c-ares grpc onednn openssl prometheus-cpp protobuf sentencepiece; do
  [[ -s "$tree/share/doc/tttd/licenses/$source" ]] || fail "no licence of $source"
done
[[ -s "$tree/share/doc/tttd/LICENSE" ]] || fail "no LICENSE"

# Programs, away from where they were built.
moved="$scratch/moved"
mv "$tree" "$moved"
run() { env --ignore-environment "$@" > "$scratch/log" 2>&1; }
expect() {
  "$@" || { fail "$* ended with $?"; cat "$scratch/log"; }
}
cp -r tests/golden/models/linear-transformer "$scratch/model"
expect run "$moved/bin/tttd" --version
expect run "$moved/bin/ttt" --help
expect run "$moved/bin/tttd" --dry_run "--model=$scratch/model"
expect run "$moved/bin/ttt_engine_bench" --device=cpu "--model=$scratch/model" --mode=decode --batch=1 --rounds=1

# The same in a root that holds glibc and the tree, and a call on a daemon there.
root="$scratch/root"
mkdir -p "$root"/{proc,lib64,tmp} "$root/lib/x86_64-linux-gnu"
for library in libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1; do
  cp --dereference "$(g++ -print-file-name=$library)" "$root/lib/x86_64-linux-gnu/"
done
cp --dereference /lib64/ld-linux-x86-64.so.2 "$root/lib64/"
mv "$moved" "$root/tttd"
mv "$scratch/model" "$root/model"
unshare=(unshare --mount)
[[ $(id -u) -eq 0 ]] || unshare+=(--map-root-user)
# Replaces the shell that calls it.
exec_in_root() {
  exec env --ignore-environment PATH="$PATH" "${unshare[@]}" bash -c \
    'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"' "$root" "$@"
}
in_root() { (exec_in_root "$@") > "$scratch/log" 2>&1; }

serve_in_root() {
  (exec_in_root /tttd/bin/tttd --model=/model --listen=127.0.0.1:0 --http_listen= \
      --device_state_bytes=16777216) \
    > "$scratch/daemon" 2>&1 &
  local daemon=$! port=
  for _ in $(seq 300); do
    port=$(sed -n "s/.* listening port=\([0-9]*\).*/\1/p" "$scratch/daemon")
    [[ -z "$port" ]] && kill -0 "$daemon" 2> /dev/null || break
    sleep 0.1
  done
  expect in_root /tttd/bin/ttt health --server "127.0.0.1:$port"
  expect in_root /tttd/bin/ttt complete --server "127.0.0.1:$port" --token-ids 1,2,3 --max-tokens 2
  kill -TERM "$daemon"
  wait "$daemon" || { fail "the daemon ended with $?"; cat "$scratch/daemon"; }
}

if "${unshare[@]}" mount --rbind /proc "$root/proc" 2> /dev/null; then
  expect in_root /tttd/bin/tttd --version
  [[ ! -d "$root/tttd/share/tttd/models/ttt-linear-14m-books" ]] ||
    expect in_root /tttd/bin/tttd --dry_run
  serve_in_root
else
  echo "note: no mount namespace here, so the programs were not run in an empty root"
fi

[[ $failures -eq 0 ]] && echo "the tree is whole"
exit $((failures > 0))
