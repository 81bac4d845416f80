#pragma once

#include <functional>

#include "server/rpc/unary_call.h"
#include "ttt/v1/admin.grpc.pb.h"

namespace ttt {

// ttt.v1.Admin. Thread-safe; outlives its calls.
class AdminService final
    : public v1::Admin::WithRawCallbackMethod_GetServerInfo<
          v1::Admin::WithRawCallbackMethod_Drain<v1::Admin::Service>> {
 public:
  // `parts` and `calls` must outlive the service. `start_drain` may be called
  // from any thread, more than once.
  AdminService(const RpcParts& parts, const ServerFacts& facts,
               ActiveCalls* calls, std::function<void()> start_drain)
      : parts_(parts),
        facts_(facts),
        calls_(calls),
        start_drain_(std::move(start_drain)),
        start_time_(parts.clock->Now()) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer* request,
                                          grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;

 private:
  void FillInfo(v1::ServerInfo* info) const;
  void FillModel(v1::ServerInfo::Model* model) const;
  void FillLimits(v1::ServerInfo::Limits* limits) const;
  void FillLoad(v1::ServerInfo::Load* load) const;

  const RpcParts parts_;
  const ServerFacts facts_;
  ActiveCalls* const calls_;
  const std::function<void()> start_drain_;
  const absl::Time start_time_;
};

}  // namespace ttt
