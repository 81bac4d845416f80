#include "server/server.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/admission/admission.h"
#include "server/base/clock.h"
#include "server/base/error.h"
#include "server/base/log.h"
#include "server/base/periodic.h"
#include "server/base/status_macros.h"
#include "server/engine/engine.h"
#include "server/engine/engine_thread.h"
#include "server/model/checkpoint.h"
#include "server/model/config.h"
#include "server/model/tokenizer.h"
#include "server/model/ttt_model.h"
#include "server/plan.h"
#include "server/rpc/listener.h"
#include "server/rpc/rpc_server.h"
#include "server/session/session_store.h"
#include "server/session/state_pool.h"
#include "server/telemetry/http_endpoint.h"
#include "server/telemetry/metrics.h"

namespace ttt {
namespace {

constexpr absl::Duration kShutdownGrace = absl::Seconds(2);
constexpr std::chrono::seconds kHousekeepingPeriod(1);

// Runs the whole model once, so that the first call finds it warm and a device
// that fails is found before a client finds it.
absl::Status WarmUp(TttModel* model, StatePool* pool) {
  TTT_ASSIGN_OR_RETURN(const StateSlot slot, pool->AcquireSlot());
  TTT_RETURN_IF_ERROR(model->InitState(*pool, slot.index()));
  const int32_t token = std::max(model->config().bos_token_id, 0);
  const StepSequence sequence = {slot.index(), 0,
                                 absl::MakeConstSpan(&token, 1)};
  const SamplingParams sampling;
  const LogitsRequest request = {
      .sequence = 0, .row = 0, .sampling = &sampling};
  TTT_ASSIGN_OR_RETURN(const StepResult result,
                       model->Step(*pool, absl::MakeConstSpan(&sequence, 1),
                                   absl::MakeConstSpan(&request, 1)));
  if (result.finite[0] && result.logits[0].finite) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "BAD_MODEL",
               "the model's answer to one token is not finite");
}

}  // namespace

// Members in the order in which they are built; what follows may use what
// stands before.
class Server::Parts {
 public:
  explicit Parts(const ServerOptions& options) : options_(options) {}
  ~Parts() {
    http_.reset();  // It reads what is built after it.
  }

  absl::Status Build();

  RpcServer* rpc() { return rpc_.get(); }
  const HttpEndpoint* http() const { return http_.get(); }

 private:
  absl::Status OpenPorts();
  absl::Status LoadModel();
  absl::Status CheckTokenizer() const;
  absl::Status BuildSessions();
  absl::Status StartRpc();
  Metrics::Gauges ReadGauges() const;

  const ServerOptions options_;
  const RealClock clock_;
  Metrics metrics_;
  Plan plan_;
  std::unique_ptr<Admission> admission_;
  std::unique_ptr<Listener> listener_;  // until rpc_ has it
  std::unique_ptr<HttpEndpoint> http_;
  std::unique_ptr<TttModel> model_;
  std::unique_ptr<Tokenizer> tokenizer_;  // may be null
  std::unique_ptr<StatePool> pool_;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<EngineThread> engine_thread_;
  std::unique_ptr<RpcServer> rpc_;
  std::unique_ptr<Periodic> housekeeping_;
};

absl::Status Server::Parts::Build() {
  TTT_ASSIGN_OR_RETURN(plan_, MakePlan(options_));
  LogPlan(plan_);
  TTT_ASSIGN_OR_RETURN(
      admission_,
      Admission::Create(
          {.max_calls = options_.max_queue + options_.max_batch_rows,
           .num_rows = options_.max_batch_rows,
           .max_queued_tokens = options_.max_queue_tokens,
           .max_bytes = options_.max_queue_bytes,
           .max_wait = options_.max_queue_wait},
          &clock_));
  TTT_RETURN_IF_ERROR(OpenPorts());
  TTT_RETURN_IF_ERROR(LoadModel());
  TTT_RETURN_IF_ERROR(BuildSessions());
  TTT_RETURN_IF_ERROR(WarmUp(model_.get(), pool_.get()));
  TTT_ASSIGN_OR_RETURN(
      engine_, Engine::Create({.max_batch_rows = options_.max_batch_rows,
                               .max_batch_tokens = options_.max_batch_tokens,
                               .max_stall = options_.max_stall,
                               .max_queue_wait = options_.max_queue_wait},
                              model_.get(), tokenizer_.get(), pool_.get(),
                              store_.get(), &metrics_, &clock_));
  engine_thread_ = std::make_unique<EngineThread>(engine_.get(), [this] {
    Log(LogLevel::kError, "the device is lost");
    rpc_->StartDrain();
    if (options_.on_device_lost) options_.on_device_lost();
  });
  metrics_.SetGaugeSource([this] { return ReadGauges(); });
  TTT_RETURN_IF_ERROR(StartRpc());
  housekeeping_ = std::make_unique<Periodic>(kHousekeepingPeriod, [this] {
    store_->DropExpired();
    rpc_->CutUnread(options_.max_unread);
  });
  return absl::OkStatus();
}

// Before the model: who has the wrong port need not wait for it to hear of
// that. A client that connects now waits for its answer.
absl::Status Server::Parts::OpenPorts() {
  auto listener = Listener::Open(options_.listen, &clock_);
  if (!listener.ok()) {
    return Error(absl::StatusCode::kUnavailable, "PORT_UNAVAILABLE",
                 absl::StrCat("--listen: cannot listen on ", options_.listen,
                              ": ", listener.status().message()));
  }
  listener_ = *std::move(listener);
  if (options_.http_listen.empty()) return absl::OkStatus();
  TTT_ASSIGN_OR_RETURN(
      http_, HttpEndpoint::Start(
                 options_.http_listen,
                 {.metrics = [this] { return metrics_.Scrape(); },
                  .state =
                      [this] {
                        return std::string(StateName(admission_->state()));
                      }}));
  return absl::OkStatus();
}

absl::Status Server::Parts::LoadModel() {
  std::unique_ptr<Checkpoint> checkpoint;
  if (options_.dummy_weights) {
    checkpoint = MakeDummyCheckpoint(plan_.config);
  } else {
    auto opened = OpenCheckpoint(options_.model_dir, plan_.config);
    if (!opened.ok()) return WithReason("BAD_MODEL", opened.status());
    checkpoint = *std::move(opened);
  }
  auto model = TttModel::Load(plan_.config, checkpoint.get(), plan_.limits,
                              plan_.backend.get());
  if (!model.ok()) {
    return WithReason(absl::IsResourceExhausted(model.status())
                          ? "DEVICE_UNAVAILABLE"
                          : "BAD_MODEL",
                      model.status());
  }
  model_ = *std::move(model);
  auto tokenizer = LoadTokenizer(options_.model_dir + "/tokenizer.model");
  if (!tokenizer.ok()) {
    if (absl::IsNotFound(tokenizer.status())) return absl::OkStatus();
    return WithReason("BAD_MODEL", tokenizer.status());
  }
  tokenizer_ = *std::move(tokenizer);
  return CheckTokenizer();
}

// A padded vocabulary is fine; one that is too small, or other ids of begin and
// end of text, are not.
absl::Status Server::Parts::CheckTokenizer() const {
  const auto check_id = [](absl::string_view key, int32_t config_id,
                           int32_t tokenizer_id) {
    if (config_id < 0 || config_id == tokenizer_id) return absl::OkStatus();
    return Error(absl::StatusCode::kInvalidArgument, "BAD_MODEL",
                 absl::StrCat("config.json: ", key, " is ", config_id,
                              ", and in tokenizer.model it is ", tokenizer_id));
  };
  TTT_RETURN_IF_ERROR(check_id("bos_token_id", plan_.config.bos_token_id,
                               tokenizer_->bos_id()));
  TTT_RETURN_IF_ERROR(check_id("eos_token_id", plan_.config.eos_token_id,
                               tokenizer_->eos_id()));
  if (tokenizer_->vocab_size() <= plan_.config.vocab_size) {
    return absl::OkStatus();
  }
  return Error(
      absl::StatusCode::kInvalidArgument, "BAD_MODEL",
      absl::StrCat("tokenizer.model has ", tokenizer_->vocab_size(),
                   " pieces, and vocab_size is ", plan_.config.vocab_size));
}

absl::Status Server::Parts::BuildSessions() {
  auto pool = StatePool::Create({.session_slots = plan_.session_slots,
                                 .scratch_slots = options_.max_batch_rows},
                                plan_.layout, plan_.backend.get());
  if (!pool.ok()) {
    return WithReason(
        "DEVICE_UNAVAILABLE",
        absl::Status(
            pool.status().code(),
            absl::StrCat(pool.status().message(), " of ", plan_.session_slots,
                         " sessions and ", options_.max_batch_rows,
                         " running turns; a smaller --device_state_bytes or "
                         "--max_batch_rows takes less")));
  }
  pool_ = *std::move(pool);
  TTT_ASSIGN_OR_RETURN(
      store_, SessionStore::Create({.max_sessions = options_.max_sessions},
                                   &clock_, pool_.get()));
  return absl::OkStatus();
}

absl::Status Server::Parts::StartRpc() {
  ServerFacts facts;
  facts.version = TTT_VERSION;
  facts.model_name = std::filesystem::path(options_.model_dir)
                         .lexically_normal()
                         .filename()
                         .string();
  facts.model_fingerprint = model_->fingerprint();
  facts.device = plan_.backend->info();
  facts.config = plan_.config;
  facts.num_parameters = model_->num_parameters();
  facts.max_batch_rows = options_.max_batch_rows;
  facts.max_batch_tokens = options_.max_batch_tokens;
  facts.max_queue = options_.max_queue;
  facts.max_queue_tokens = options_.max_queue_tokens;
  facts.max_queue_bytes = options_.max_queue_bytes;
  facts.max_queue_wait = options_.max_queue_wait;
  facts.max_input_tokens = options_.max_input_tokens;
  facts.max_top_logprobs = plan_.limits.max_candidates;
  metrics_.SetInfo(facts.version, facts.device.name, facts.model_fingerprint);
  const RpcParts parts = {.sessions = store_.get(),
                          .pool = pool_.get(),
                          .admission = admission_.get(),
                          .engine = engine_thread_.get(),
                          .tokenizer = tokenizer_.get(),
                          .metrics = &metrics_,
                          .clock = &clock_};
  TTT_ASSIGN_OR_RETURN(
      rpc_, RpcServer::Start(
                {.reflection = options_.reflection,
                 .stream_interval = options_.stream_interval,
                 .max_answer_candidates = options_.max_answer_candidates},
                parts, facts, std::move(listener_)));
  return absl::OkStatus();
}

Metrics::Gauges Server::Parts::ReadGauges() const {
  const SessionStore::Counts sessions = store_->counts();
  const StatePool::Usage slots = pool_->usage();
  Metrics::Gauges gauges;
  const Admission::Load load = admission_->load();
  gauges.queued_requests = load.queued;
  gauges.running_turns = load.running;
  gauges.sessions_running = sessions.running;
  gauges.sessions_device = sessions.sessions - sessions.running;
  gauges.slots_free = slots.slots - slots.slots_in_use;
  gauges.slots_scratch = std::min(gauges.running_turns, slots.slots_in_use);
  gauges.slots_committed = slots.slots_in_use - gauges.slots_scratch;
  gauges.session_slots = slots.session_slots;
  gauges.session_slots_reserved = slots.reserved;
  gauges.slot_bytes = plan_.layout.slot_bytes;
  gauges.weight_bytes = model_->weight_bytes();
  gauges.pool_bytes = plan_.pool_bytes();
  gauges.workspace_bytes = model_->workspace_bytes();
  gauges.driver_bytes = plan_.overhead.driver_bytes;
  gauges.backend_bytes = plan_.overhead.own_bytes;
  gauges.reserve_bytes = plan_.overhead.reserve_bytes;
  const DeviceCounts device = plan_.backend->counts();
  gauges.bytes_to_device = device.bytes_to_device;
  gauges.bytes_to_host = device.bytes_to_host;
  gauges.graph_launches = device.recordings_run;
  gauges.state = std::string(StateName(admission_->state()));
  return gauges;
}

int ExitCode(const absl::Status& status) {
  if (status.ok()) return 0;
  const std::string reason = ErrorReason(status);
  if (reason == "BAD_FLAG") return kExitBadFlag;
  if (reason == "BAD_MODEL") return kExitBadModel;
  if (reason == "DEVICE_UNAVAILABLE" || reason == "PORT_UNAVAILABLE") {
    return kExitUnavailable;
  }
  return kExitInternal;
}

absl::StatusOr<std::string> PlanServer(const ServerOptions& options) {
  TTT_ASSIGN_OR_RETURN(const Plan plan, MakePlan(options));
  return DescribePlan(plan);
}

Server::Server(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Server::~Server() { Shutdown(); }

absl::StatusOr<std::unique_ptr<Server>> Server::Create(
    const ServerOptions& options) {
  auto parts = std::make_unique<Parts>(options);
  TTT_RETURN_IF_ERROR(parts->Build());
  return std::unique_ptr<Server>(new Server(std::move(parts)));
}

void Server::SetServing() { parts_->rpc()->SetServing(); }

void Server::StartDrain() { parts_->rpc()->StartDrain(); }

bool Server::WaitUntilIdle(absl::Duration bound) {
  return parts_->rpc()->WaitUntilIdle(bound);
}

void Server::Shutdown() { parts_->rpc()->Shutdown(kShutdownGrace); }

int Server::port() const { return parts_->rpc()->port(); }

std::optional<int> Server::http_port() const {
  if (parts_->http() == nullptr) return std::nullopt;
  return parts_->http()->port();
}

}  // namespace ttt
