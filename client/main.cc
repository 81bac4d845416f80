// ttt, the command-line client.
#include <string>
#include <vector>

#include "client/commands.h"
#include "client/console.h"

int main(int argc, char** argv) {
  const ttt::Terminal terminal = ttt::ProcessTerminal();
  return ttt::RunTtt(terminal, std::vector<std::string>(argv + 1, argv + argc));
}
