#!/bin/bash
# README.md's C++, word for word, in a project outside of TREE, against TTTD,
# and once that has gone:
#
#   tests/client/outside_project_test.sh TREE TTTD
set -euo pipefail

tree=${1:?usage: outside_project_test.sh TREE TTTD}
tttd=${2:?usage: outside_project_test.sh TREE TTTD}
work=$(mktemp -d)
daemon=
clean_up() {
  if [[ -n $daemon ]]; then
    kill -KILL "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
  fi
  rm -rf "$work"
}
trap clean_up EXIT

mkdir "$work/build"
mkfifo "$work/log"
"$tttd" --listen=127.0.0.1:0 --http_listen= 2>"$work/log" &
daemon=$!
exec 3<"$work/log"
while read -r line <&3; do
  [[ ! $line =~ \ listening\ port=([0-9]+) ]] || break
done
port=${BASH_REMATCH[1]}

# All that differs is the port.
sed -n '/^```cpp$/,/^```$/p' "$tree/README.md" | sed -e '/^```/d' -e "s/:50051/:$port/" \
  >"$work/build/readme.cc"
cmake -S "$tree/tests/client/outside_project" -B "$work/build" -DTTTD_TREE="$tree" \
  -DTTT_CUDA=OFF >"$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
cmake --build "$work/build" -j"$(nproc)" >"$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
text=$("$work/build/readme")
printf 'it answers: %s\n' "$text"
[[ ${#text} -ge 20 && $text != *"("[A-Z]* ]]
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null || true
daemon=
! text=$("$work/build/readme") || { echo 'it ends with 0 without a server'; exit 1; }
printf 'it fails: %s\n' "$text"
[[ $text == *'(UNAVAILABLE)' ]]
