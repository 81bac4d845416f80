#include "server/rpc/sessions_service.h"

#include "server/base/status_macros.h"
#include "server/rpc/messages.h"
#include "server/rpc/validate_request.h"

namespace ttt {

absl::Status SessionsService::Reply(const absl::StatusOr<SessionInfo>& session,
                                    v1::Session* response) const {
  TTT_RETURN_IF_ERROR(session.status());
  ToMessage(*session, model_fingerprint_, response);
  return absl::OkStatus();
}

absl::Status SessionsService::Create(const v1::CreateSessionRequest& request,
                                     v1::Session* response) {
  if (!request.session_id().empty()) {
    TTT_RETURN_IF_ERROR(ValidateSessionId("session_id", request.session_id()));
  }
  TTT_ASSIGN_OR_RETURN(const absl::Duration ttl,
                       ValidateTtl(request.has_ttl(), request.ttl()));
  TTT_RETURN_IF_ERROR(parts_.admission->CheckServing());
  return Reply(parts_.sessions->CreateSession(request.session_id(), ttl),
               response);
}

absl::Status SessionsService::List(const v1::ListSessionsRequest& request,
                                   v1::ListSessionsResponse* response) {
  TTT_ASSIGN_OR_RETURN(const int32_t page_size,
                       ValidatePageSize(request.page_size()));
  // A page begins after the id that is its token.
  if (!request.page_token().empty()) {
    TTT_RETURN_IF_ERROR(ValidateSessionId("page_token", request.page_token()));
  }
  std::vector<SessionInfo> sessions =
      parts_.sessions->ListSessions(request.page_token(), page_size + 1);
  if (sessions.size() > page_size) {
    sessions.resize(page_size);
    response->set_next_page_token(sessions.back().id);
  }
  for (const SessionInfo& session : sessions) {
    ToMessage(session, model_fingerprint_, response->add_sessions());
  }
  return absl::OkStatus();
}

absl::Status SessionsService::Fork(const v1::ForkSessionRequest& request,
                                   v1::Session* response) {
  TTT_RETURN_IF_ERROR(ValidateSessionId("session_id", request.session_id()));
  if (!request.new_session_id().empty()) {
    TTT_RETURN_IF_ERROR(
        ValidateSessionId("new_session_id", request.new_session_id()));
  }
  TTT_ASSIGN_OR_RETURN(const absl::Duration ttl,
                       ValidateTtl(request.has_ttl(), request.ttl()));
  std::optional<uint64_t> expected_revision;
  if (request.has_expected_revision()) {
    expected_revision = request.expected_revision();
  }
  TTT_RETURN_IF_ERROR(parts_.admission->CheckServing());
  return Reply(parts_.sessions->ForkSession(request.session_id(),
                                            request.new_session_id(), ttl,
                                            expected_revision),
               response);
}

grpc::ServerUnaryReactor* SessionsService::CreateSession(Context* context,
                                                         const Bytes* request,
                                                         Bytes* response) {
  return Answer<v1::CreateSessionRequest, v1::Session>(
      "CreateSession", parts_, calls_, context, request, response,
      [this](const auto& in, auto* out) { return Create(in, out); });
}

grpc::ServerUnaryReactor* SessionsService::GetSession(Context* context,
                                                      const Bytes* request,
                                                      Bytes* response) {
  return Answer<v1::GetSessionRequest, v1::Session>(
      "GetSession", parts_, calls_, context, request, response,
      [this](const auto& in, auto* out) -> absl::Status {
        TTT_RETURN_IF_ERROR(ValidateSessionId("session_id", in.session_id()));
        return Reply(parts_.sessions->GetSession(in.session_id()), out);
      });
}

grpc::ServerUnaryReactor* SessionsService::ListSessions(Context* context,
                                                        const Bytes* request,
                                                        Bytes* response) {
  return Answer<v1::ListSessionsRequest, v1::ListSessionsResponse>(
      "ListSessions", parts_, calls_, context, request, response,
      [this](const auto& in, auto* out) { return List(in, out); });
}

grpc::ServerUnaryReactor* SessionsService::DeleteSession(Context* context,
                                                         const Bytes* request,
                                                         Bytes* response) {
  return Answer<v1::DeleteSessionRequest, v1::DeleteSessionResponse>(
      "DeleteSession", parts_, calls_, context, request, response,
      [this](const auto& in, auto*) -> absl::Status {
        TTT_RETURN_IF_ERROR(ValidateSessionId("session_id", in.session_id()));
        return parts_.sessions->DeleteSession(in.session_id());
      });
}

grpc::ServerUnaryReactor* SessionsService::ForkSession(Context* context,
                                                       const Bytes* request,
                                                       Bytes* response) {
  return Answer<v1::ForkSessionRequest, v1::Session>(
      "ForkSession", parts_, calls_, context, request, response,
      [this](const auto& in, auto* out) { return Fork(in, out); });
}

grpc::ServerUnaryReactor* SessionsService::RewindSession(Context* context,
                                                         const Bytes*, Bytes*) {
  return Refuse("RewindSession", parts_, context);
}

grpc::ServerUnaryReactor* SessionsService::ListTurns(Context* context,
                                                     const Bytes*, Bytes*) {
  return Refuse("ListTurns", parts_, context);
}

grpc::ServerUnaryReactor* SessionsService::GetTurn(Context* context,
                                                   const Bytes*, Bytes*) {
  return Refuse("GetTurn", parts_, context);
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* SessionsService::ExportSession(
    Context* context, const Bytes*) {
  return new RefusingReactor<grpc::ServerWriteReactor<Bytes>>("ExportSession",
                                                              parts_, context);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* SessionsService::ImportSession(
    Context* context, Bytes*) {
  return new RefusingReactor<grpc::ServerReadReactor<Bytes>>("ImportSession",
                                                             parts_, context);
}

}  // namespace ttt
