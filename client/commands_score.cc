// score
#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/call_error.h"
#include "client/command.h"
#include "client/commands.h"
#include "client/json.h"
#include "client/text.h"
#include "client/turn.h"

namespace ttt {
namespace {

constexpr int32_t kDefaultWindow = 8192;

// A sum over predicted tokens.
struct Loss {
  double nats = 0;
  int64_t tokens = 0;

  void Add(const v1::Position& position) {
    if (!position.has_logprob()) return;
    nats -= position.logprob();
    ++tokens;
  }
  void Add(const Loss& other) {
    nats += other.nats;
    tokens += other.tokens;
  }
  double mean() const { return nats / tokens; }
};

Loss LossOf(const v1::ScoreResponse& response) {
  Loss loss;
  if (response.has_first()) loss.Add(response.first());
  for (const v1::Position& position : response.positions()) loss.Add(position);
  return loss;
}

// Where to cut `text` into a piece of at most `max_bytes` to tokenize: before a
// space, so that the ids are those of the whole.
size_t PieceSize(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text.size();
  const size_t space = text.substr(0, max_bytes).find_last_of(" \n");
  if (space != absl::string_view::npos && space > 0) return space;
  size_t size = max_bytes;
  while (size > 1 && (static_cast<uint8_t>(text[size]) & 0xC0) == 0x80) --size;
  return size;
}

class ScoreCommand : public Command {
 public:
  ScoreCommand()
      : Command({.name = "score",
                 .arguments = "[TEXT|-]",
                 .summary = "how well the model predicts a text or a file",
                 .details =
                     "Every predicted token costs -ln(its probability) nats. "
                     "Shown are the mean over all\n"
                     "predicted tokens, its exponential (perplexity), and all "
                     "bits over all bytes.\n"
                     "TEXT, and a file with --session, are read in one call; "
                     "nothing is committed.\n"
                     "A file alone is cut into windows. Each is read from "
                     "nothing, after begin-of-text,\n"
                     "and its mean is over its predicted tokens: all of them, "
                     "if the model has a\n"
                     "begin-of-text. The file's mean weighs windows by their "
                     "predicted tokens.",
                 .max_arguments = 1}) {}

  void AddFlags(FlagSet* flags) override {
    flags->String("file", &file_, "PATH", "score a file; '-': standard input");
    flags->Int32("window", &window_, "N",
                 "tokens of a window (default 8192); 0: all in one call", 0);
    flags->Name("session", &session_, "NAME",
                "score what would come next in this session");
    flags->Ids("token-ids", &token_ids_, "IDS", "1,2,3 instead of a text");
    flags->Int32("logprobs", &logprobs_, "N",
                 "one line a token: id, log-probability of the next token,\n"
                 "the N best for its place (not with windows)");
  }

  int Run(Context& context, const std::vector<std::string>& args) override {
    const size_t inputs =
        args.size() + (file_.empty() ? 0 : 1) + (token_ids_.empty() ? 0 : 1);
    if (inputs != 1) {
      return Fail(context, UsageError("give one of TEXT, '-', --file and "
                                      "--token-ids"));
    }
    const bool in_windows =
        !file_.empty() && session_.empty() && window_.value_or(1) > 0;
    if (in_windows && logprobs_.has_value()) {
      return Fail(context, UsageError("--logprobs needs --window 0"));
    }
    if (window_.has_value() && !in_windows && *window_ > 0) {
      return Fail(context, UsageError("--window needs --file, and no "
                                      "--session"));
    }
    start_ = absl::Now();
    const absl::Status status =
        in_windows ? ScoreFile(context) : ScoreOnce(context, args);
    context.console.ClearProgress();
    if (!status.ok()) return Fail(context, status);
    Report(context);
    return kExitOk;
  }

 private:
  absl::StatusOr<std::string> ReadInputFile(Context& context) {
    absl::StatusOr<std::string> text = ReadFile(context, file_);
    if (!text.ok()) return text;
    const std::string name = file_ == "-" ? "standard input" : file_;
    if (text->empty()) return DataError(absl::StrCat(name, " is empty"));
    if (absl::Status status = CheckUtf8(*text, name); !status.ok()) {
      return status;
    }
    return text;
  }

  absl::Status ScoreOnce(Context& context,
                         const std::vector<std::string>& args) {
    v1::ScoreRequest request;
    request.set_session_id(session_);
    if (logprobs_.has_value()) request.set_top_logprobs(*logprobs_);
    if (!token_ids_.empty()) {
      request.mutable_token_ids()->mutable_ids()->Assign(token_ids_.begin(),
                                                         token_ids_.end());
    } else {
      absl::StatusOr<std::string> text =
          file_.empty() ? ReadText(context, args[0]) : ReadInputFile(context);
      if (!text.ok()) return text.status();
      bytes_ = text->size();
      request.set_text(*std::move(text));
    }
    absl::StatusOr<v1::ScoreResponse> response = Call(context, request);
    if (!response.ok()) return response.status();
    total_ = LossOf(*response);
    if (logprobs_.has_value()) response_ = *std::move(response);
    return CheckTotal();
  }

  absl::Status ScoreFile(Context& context) {
    const absl::StatusOr<std::string> text = ReadInputFile(context);
    if (!text.ok()) return text.status();
    const absl::StatusOr<v1::ServerInfo> info =
        context.client.GetServerInfo(context.call_options());
    if (!info.ok()) return info.status();
    const absl::StatusOr<std::vector<int32_t>> ids =
        Tokenize(context, *text, info->model().bos_token_id());
    if (!ids.ok()) return ids.status();
    bytes_ = text->size();
    const size_t window = window_.value_or(kDefaultWindow);
    for (size_t begin = 0; begin < ids->size(); begin += window) {
      const size_t end = std::min(begin + window, ids->size());
      v1::ScoreRequest request;
      auto& window_ids = *request.mutable_token_ids()->mutable_ids();
      if (info->model().bos_token_id() >= 0) {
        window_ids.Add(info->model().bos_token_id());
      }
      window_ids.Add(ids->begin() + begin, ids->begin() + end);
      const absl::StatusOr<v1::ScoreResponse> response = Call(context, request);
      if (!response.ok()) return response.status();
      windows_.push_back(LossOf(*response));
      total_.Add(windows_.back());
      ShowProgress(context, end, ids->size());
    }
    return CheckTotal();
  }

  // The ids of the file, without begin-of-text.
  absl::StatusOr<std::vector<int32_t>> Tokenize(Context& context,
                                                absl::string_view text,
                                                int32_t bos) {
    constexpr size_t kPieceBytes = 1 << 20;  // far below the message limit
    std::vector<int32_t> ids;
    for (size_t done = 0; done < text.size();) {
      const absl::string_view rest = text.substr(done);
      const size_t size = PieceSize(rest, kPieceBytes);
      v1::TokenizeRequest request;
      request.set_text(std::string(rest.substr(0, size)));
      request.set_at_start(done == 0);
      const absl::StatusOr<v1::TokenizeResponse> response =
          context.client.Tokenize(request, context.call_options());
      if (!response.ok()) return response.status();
      const bool skip = done == 0 && response->ids_size() > 0 && bos >= 0 &&
                        response->ids(0) == bos;
      ids.insert(ids.end(), response->ids().begin() + (skip ? 1 : 0),
                 response->ids().end());
      done += size;
      context.console.Progress(static_cast<double>(done) / text.size(),
                               "tokenized");
    }
    return ids;
  }

  // Waits while the server has no room: a long file is worth it.
  absl::StatusOr<v1::ScoreResponse> Call(Context& context,
                                         const v1::ScoreRequest& request) {
    constexpr int kMaxTries = 100;
    for (int i = 1;; ++i) {
      absl::StatusOr<v1::ScoreResponse> response =
          context.client.Score(request, context.call_options());
      if (response.ok() || i == kMaxTries ||
          !absl::IsResourceExhausted(response.status())) {
        return response;
      }
      const CallError error = DecodeError(response.status());
      if (!error.retry_after.has_value()) return response;
      Wait(context, RetryWait(i, *error.retry_after, jitter_(random_)));
      if (context.canceller.cancelled()) return response;
    }
  }

  // Ctrl-C ends it.
  static void Wait(const Context& context, absl::Duration duration) {
    constexpr absl::Duration kSlice = absl::Milliseconds(50);
    const absl::Time end = absl::Now() + duration;
    while (!context.canceller.cancelled() && absl::Now() < end) {
      absl::SleepFor(std::min(kSlice, end - absl::Now()));
    }
  }

  void ShowProgress(Context& context, size_t done, size_t all) {
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
    context.console.Progress(
        static_cast<double>(done) / all,
        absl::StrFormat("%s of %s tokens, %s/s, perplexity %.2f",
                        HumanCount(done), HumanCount(all),
                        HumanRate(done / seconds), std::exp(total_.mean())));
  }

  absl::Status CheckTotal() {
    if (total_.tokens > 0) return absl::OkStatus();
    return DataError("there is no token to predict");
  }

  std::optional<double> BitsPerByte() const {
    if (bytes_ == 0) return std::nullopt;
    return total_.nats / std::log(2.0) / bytes_;
  }

  void Report(Context& context) {
    if (context.flags.json) return PrintJson(context.console, ToJson());
    if (response_.has_first()) {
      context.console.Print(absl::StrCat(
          "  first", PositionLine(response_.first()).substr(7), "\n"));
    }
    for (const v1::Position& position : response_.positions()) {
      context.console.Print(absl::StrCat(PositionLine(position), "\n"));
    }
    std::string text =
        absl::StrFormat("perplexity      %.4f\nnats per token  %.6f\n",
                        std::exp(total_.mean()), total_.mean());
    if (const std::optional<double> bits = BitsPerByte()) {
      absl::StrAppendFormat(&text, "bits per byte   %.6f\n", *bits);
    }
    absl::StrAppend(&text, "tokens          ", HumanCount(total_.tokens));
    if (bytes_ > 0)
      absl::StrAppend(&text, " of ", HumanCount(bytes_), " bytes");
    if (windows_.size() > 1) {
      absl::StrAppend(&text, ", in ", windows_.size(), " windows");
    }
    context.console.Print(text + "\n");
    if (context.console.terminal().err_is_terminal || context.flags.verbose) {
      const absl::Duration elapsed = absl::Now() - start_;
      context.console.Facts(absl::StrCat(
          "[", HumanDuration(elapsed), ", ",
          HumanRate(total_.tokens / absl::ToDoubleSeconds(elapsed)),
          " tokens/s]"));
    }
  }

  Json ToJson() const {
    Json json = {{"perplexity", std::exp(total_.mean())},
                 {"nats_per_token", total_.mean()},
                 {"tokens", total_.tokens}};
    if (const std::optional<double> bits = BitsPerByte()) {
      json["bits_per_byte"] = *bits;
      json["bytes"] = bytes_;
    }
    if (!windows_.empty()) {
      Json& windows = json["windows"] = Json::array();
      for (const Loss& window : windows_) {
        windows.push_back(
            {{"tokens", window.tokens}, {"nats_per_token", window.mean()}});
      }
    }
    if (response_.has_first())
      json["first"] = PositionToJson(response_.first());
    if (response_.positions().empty()) return json;
    Json& positions = json["positions"] = Json::array();
    for (const v1::Position& position : response_.positions()) {
      positions.push_back(PositionToJson(position));
    }
    return json;
  }

  std::string file_;
  std::string session_;
  std::vector<int32_t> token_ids_;
  std::optional<int32_t> window_;
  std::optional<int32_t> logprobs_;

  std::mt19937 random_{std::random_device()()};
  std::uniform_real_distribution<double> jitter_;  // [0, 1)

  absl::Time start_;
  size_t bytes_ = 0;  // of the text; 0: ids alone
  Loss total_;
  std::vector<Loss> windows_;
  v1::ScoreResponse response_;  // with --logprobs
};

}  // namespace

std::unique_ptr<Command> MakeScoreCommand() {
  return std::make_unique<ScoreCommand>();
}

}  // namespace ttt
