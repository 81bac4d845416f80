// All commands of ttt, and the program around them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "client/command.h"
#include "client/console.h"
#include "ttt/v1/sessions.pb.h"

namespace ttt {

std::unique_ptr<Command> MakeCompleteCommand();
std::unique_ptr<Command> MakeChatCommand();
std::unique_ptr<Command> MakeScoreCommand();
std::vector<std::unique_ptr<Command>> MakeSessionCommands();
std::vector<std::unique_ptr<Command>> MakeTransferCommands();
std::vector<std::unique_ptr<Command>> MakeTokenizerCommands();
std::vector<std::unique_ptr<Command>> MakeServerCommands();
std::unique_ptr<Command> MakeBenchCommand();

// A session for people, in lines of `name  value`.
std::string SessionText(const v1::Session& session);

// The program: parses, runs one command, and gives the exit code. `args` is
// without the program's name.
int RunTtt(const Terminal& terminal, const std::vector<std::string>& args);

}  // namespace ttt
