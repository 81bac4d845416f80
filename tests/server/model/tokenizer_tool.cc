// Encodes the lines of standard input, one line of ids each, for
// tests/golden/tokenizer/verify_corpus.py.
//
//   tokenizer_tool MODEL start|on
#include <cstdio>
#include <iostream>
#include <string>

#include "absl/strings/str_join.h"
#include "server/model/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  const auto tokenizer = ttt::LoadTokenizer(argv[1]);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 65;
  }
  const bool at_start = std::string(argv[2]) == "start";
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    const auto ids = (*tokenizer)->Encode(line, at_start);
    if (!ids.ok()) {
      std::cerr << ids.status() << "\n";
      return 65;
    }
    std::cout << absl::StrJoin(*ids, " ") << "\n";
  }
  return 0;
}
