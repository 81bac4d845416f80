#pragma once

#include <string>

#include "server/rpc/unary_call.h"
#include "ttt/v1/sessions.grpc.pb.h"

namespace ttt {

// ttt.v1.Sessions. Thread-safe; outlives its calls.
class SessionsService final
    : public v1::Sessions::WithRawCallbackMethod_CreateSession<
          v1::Sessions::WithRawCallbackMethod_GetSession<
              v1::Sessions::WithRawCallbackMethod_ListSessions<
                  v1::Sessions::WithRawCallbackMethod_DeleteSession<
                      v1::Sessions::WithRawCallbackMethod_ForkSession<
                          v1::Sessions::WithRawCallbackMethod_RewindSession<
                              v1::Sessions::WithRawCallbackMethod_ListTurns<
                                  v1::Sessions::WithRawCallbackMethod_GetTurn<
                                      v1::Sessions::
                                          WithRawCallbackMethod_ExportSession<
                                              v1::Sessions::
                                                  WithRawCallbackMethod_ImportSession<
                                                      v1::Sessions::
                                                          Service>>>>>>>>>> {
 public:
  // All must outlive the service.
  SessionsService(const RpcParts& parts, absl::string_view model_fingerprint,
                  ActiveCalls* calls)
      : parts_(parts), model_fingerprint_(model_fingerprint), calls_(calls) {}

  using Bytes = grpc::ByteBuffer;
  using Context = grpc::CallbackServerContext;

  grpc::ServerUnaryReactor* CreateSession(Context* context,
                                          const Bytes* request,
                                          Bytes* response) override;
  grpc::ServerUnaryReactor* GetSession(Context* context, const Bytes* request,
                                       Bytes* response) override;
  grpc::ServerUnaryReactor* ListSessions(Context* context, const Bytes* request,
                                         Bytes* response) override;
  grpc::ServerUnaryReactor* DeleteSession(Context* context,
                                          const Bytes* request,
                                          Bytes* response) override;
  grpc::ServerUnaryReactor* ForkSession(Context* context, const Bytes* request,
                                        Bytes* response) override;
  grpc::ServerUnaryReactor* RewindSession(Context* context,
                                          const Bytes* request,
                                          Bytes* response) override;
  grpc::ServerUnaryReactor* ListTurns(Context* context, const Bytes* request,
                                      Bytes* response) override;
  grpc::ServerUnaryReactor* GetTurn(Context* context, const Bytes* request,
                                    Bytes* response) override;
  grpc::ServerWriteReactor<Bytes>* ExportSession(Context* context,
                                                 const Bytes* request) override;
  grpc::ServerReadReactor<Bytes>* ImportSession(Context* context,
                                                Bytes* response) override;

 private:
  absl::Status Create(const v1::CreateSessionRequest& request,
                      v1::Session* response);
  absl::Status List(const v1::ListSessionsRequest& request,
                    v1::ListSessionsResponse* response);
  absl::Status Fork(const v1::ForkSessionRequest& request,
                    v1::Session* response);
  absl::Status Reply(const absl::StatusOr<SessionInfo>& session,
                     v1::Session* response) const;

  const RpcParts parts_;
  const std::string model_fingerprint_;
  ActiveCalls* const calls_;
};

}  // namespace ttt
