// sessions export, import
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/command.h"
#include "client/commands.h"
#include "client/json.h"
#include "client/text.h"

namespace ttt {
namespace {

// A file that gets its name when it is whole: until then it is FILE.partial.
class NewFile {
 public:
  explicit NewFile(const std::string& path)
      : path_(path), partial_(path + ".partial") {
    file_ = std::fopen(partial_.c_str(), "wb");
    if (file_ == nullptr) errno_ = errno;
  }
  ~NewFile() {
    if (file_ != nullptr) std::fclose(file_);
    if (!kept_) std::remove(partial_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  absl::Status Write(absl::string_view bytes) {
    if (file_ != nullptr &&
        std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
      errno_ = errno;
    }
    return status();
  }

  absl::Status Keep() {
    if (errno_ == 0 && std::fflush(file_) != 0) errno_ = errno;
    if (errno_ == 0 && std::rename(partial_.c_str(), path_.c_str()) != 0) {
      errno_ = errno;
    }
    kept_ = errno_ == 0;
    return status();
  }

  absl::Status status() const {
    if (errno_ == 0) return absl::OkStatus();
    return DataError(
        absl::StrCat("cannot write ", path_, ": ", std::strerror(errno_)));
  }

 private:
  const std::string path_, partial_;
  std::FILE* file_ = nullptr;
  int errno_ = 0;
  bool kept_ = false;
};

class ExportCommand : public Command {
 public:
  ExportCommand()
      : Command({.name = "sessions export",
                 .arguments = "NAME FILE",
                 .summary = "write a session's state to a file (not in "
                            "this version)",
                 .min_arguments = 2,
                 .max_arguments = 2}) {}

  int Run(Context& context, const std::vector<std::string>& args) override {
    NewFile file(args[1]);
    if (!file.status().ok()) return Fail(context, file.status());
    v1::ExportSessionRequest request;
    request.set_session_id(args[0]);
    int64_t bytes = 0;
    absl::Status status = context.client.ExportSession(
        request, context.call_options(), [&](absl::string_view data) {
          bytes += data.size();
          return file.Write(data);
        });
    if (status.ok()) status = file.Keep();
    if (!status.ok()) return Fail(context, status);
    if (context.flags.json) {
      PrintJson(context.console, {{"file", args[1]}, {"bytes", bytes}});
    } else {
      context.console.Note(
          absl::StrCat("wrote ", HumanBytes(bytes), " to ", args[1]));
    }
    return kExitOk;
  }
};

class ImportCommand : public Command {
 public:
  ImportCommand()
      : Command({.name = "sessions import",
                 .arguments = "FILE|-",
                 .summary = "make a session from an exported file (not in "
                            "this version)",
                 .min_arguments = 1,
                 .max_arguments = 1}) {}

  int Run(Context& context, const std::vector<std::string>& args) override {
    constexpr size_t kChunkBytes = 256 << 10;
    const absl::StatusOr<std::string> bytes = ReadFile(context, args[0]);
    if (!bytes.ok()) return Fail(context, bytes.status());
    size_t sent = 0;
    const absl::StatusOr<v1::Session> session = context.client.ImportSession(
        context.call_options(), [&]() -> absl::StatusOr<std::string> {
          const std::string chunk = bytes->substr(sent, kChunkBytes);
          sent += chunk.size();
          return chunk;
        });
    if (!session.ok()) return Fail(context, session.status());
    if (context.flags.json) {
      PrintJson(context.console, SessionToJson(*session));
    } else {
      context.console.Print(absl::StrCat(session->session_id(), "\n"));
    }
    return kExitOk;
  }
};

}  // namespace

std::vector<std::unique_ptr<Command>> MakeTransferCommands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(std::make_unique<ExportCommand>());
  commands.push_back(std::make_unique<ImportCommand>());
  return commands;
}

}  // namespace ttt
