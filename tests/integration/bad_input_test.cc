// Whatever a request holds, the answer is a status that says what is wrong with
// it, and nothing else has changed.
//
// A field of a request that has no entry in bad_fields.cc fails here, and so
// does an entry of a field that is gone.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/integration/bad_fields.h"
#include "tests/integration/test_server.h"

namespace ttt {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MessageFactory;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<const MethodDescriptor*> Methods() {
  std::vector<const MethodDescriptor*> methods;
  for (const char* name : {"Inference", "Sessions", "Tokenizer", "Admin"}) {
    const ServiceDescriptor* const service =
        DescriptorPool::generated_pool()->FindServiceByName(
            absl::StrCat("ttt.v1.", name));
    for (int i = 0; i < service->method_count(); ++i) {
      methods.push_back(service->method(i));
    }
  }
  return methods;
}

std::string PathOf(const MethodDescriptor& method) {
  return absl::StrCat("/", method.service()->full_name(), "/", method.name());
}

// All fields that hold a value, by path from the message's name.
void AddFields(const Descriptor& message, const std::string& path,
               std::map<std::string, const FieldDescriptor*>* fields) {
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor* const field = message.field(i);
    const std::string name = absl::StrCat(path, ".", field->name());
    if (field->message_type() != nullptr) {
      AddFields(*field->message_type(), name, fields);
    } else {
      (*fields)[name] = field;
    }
  }
}

std::map<std::string, const FieldDescriptor*> AllFields() {
  std::map<std::string, const FieldDescriptor*> fields;
  for (const MethodDescriptor* method : Methods()) {
    AddFields(*method->input_type(), method->input_type()->name(), &fields);
  }
  return fields;
}

std::unique_ptr<Message> NewMessage(const Descriptor& type) {
  return std::unique_ptr<Message>(
      MessageFactory::generated_factory()->GetPrototype(&type)->New());
}

std::string Bytes(const Descriptor& type, const std::string& text) {
  const auto message = NewMessage(type);
  EXPECT_TRUE(
      google::protobuf::TextFormat::ParseFromString(text, message.get()))
      << text.substr(0, 200);
  return message->SerializeAsString();
}

// One server for all; after each test it holds what it held before.
class BadInputTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    server_ = new TestServer({.adjust = [](ServerOptions* options) {
      options->max_input_tokens = 2000;
    }});
    server_->Complete(
        absl::StrCat("token_ids { ids: [5, 6, 7] } sampling { max_tokens: 2 } "
                     "create_session: true session_id: '",
                     kSession, "'"));
    before_ = Lasting(server_->GetSession(kSession));
    good_answer_ = GoodAnswer();
  }
  static void TearDownTestSuite() { delete server_; }

  void TearDown() override { CheckUnchanged("at the end"); }

  // The server answers a good call as ever, and the one session is as it was.
  static void CheckUnchanged(const std::string& after) {
    EXPECT_EQ(GoodAnswer(), good_answer_) << after;
    grpc::ClientContext context;
    v1::ListSessionsResponse sessions;
    ASSERT_TRUE(server_->sessions().ListSessions(&context, {}, &sessions).ok());
    ASSERT_EQ(sessions.sessions_size(), 1) << after;
    EXPECT_EQ(Lasting(sessions.sessions(0)), before_) << after;
  }

  // What only a turn that is committed may change: a turn that began shows in
  // the time of the last use.
  static std::string Lasting(v1::Session session) {
    session.clear_last_used_time();
    return session.SerializeAsString();
  }

  static std::vector<int32_t> GoodAnswer() {
    const v1::CompleteResponse answer =
        server_->Complete("token_ids { ids: 9 } sampling { max_tokens: 2 }");
    return {answer.token_ids().begin(), answer.token_ids().end()};
  }

  static grpc::Status Call(const MethodDescriptor& method,
                           const std::string& bytes) {
    std::string response;
    return server_->CallRaw(PathOf(method), bytes, &response);
  }

  // A refusal has details, and a message that fits a line.
  static void CheckRefusal(const grpc::Status& status) {
    EXPECT_NE(status.error_code(), grpc::StatusCode::UNKNOWN);
    EXPECT_EQ(ErrorInfoOf(status).domain(), "tttd");
    EXPECT_THAT(ErrorInfoOf(status).reason(), ::testing::Not(IsEmpty()));
    EXPECT_LT(status.error_message().size(), 1100);
    EXPECT_FALSE(absl::StrContains(status.error_message(), '\n'));
  }

  static TestServer* server_;
  static std::string before_;
  static std::vector<int32_t> good_answer_;
};

TestServer* BadInputTest::server_ = nullptr;
std::string BadInputTest::before_;
std::vector<int32_t> BadInputTest::good_answer_;

TEST_F(BadInputTest, EveryFieldHasABadValueOrAReasonWhyThereIsNone) {
  std::set<std::string> tested;
  for (const BadField& bad : BadFields()) {
    tested.insert(bad.field);
    EXPECT_TRUE(AllFields().count(bad.field) > 0) << bad.field << " is gone";
    EXPECT_THAT(bad.says, ::testing::Not(IsEmpty())) << bad.field;
  }
  for (const auto& [field, descriptor] : AllFields()) {
    EXPECT_TRUE(tested.count(field) > 0) << field << " is not in bad_fields.cc";
  }
}

TEST_F(BadInputTest, EveryBadValueIsRefusedByItsName) {
  for (const BadField& bad : BadFields()) {
    for (const MethodDescriptor* method : Methods()) {
      const Descriptor& type = *method->input_type();
      if (!absl::StartsWith(bad.field, absl::StrCat(type.name(), ".")))
        continue;
      if (bad.code == grpc::StatusCode::OK && method->server_streaming()) {
        continue;  // Many messages are no answer to a unary call.
      }
      const std::string what = absl::StrCat(method->name(), " ", bad.field, " ",
                                            bad.request.substr(0, 200));
      const grpc::Status status = Call(*method, Bytes(type, bad.request));
      EXPECT_EQ(status.error_code(), bad.code)
          << what << ": " << status.error_message();
      if (bad.code != grpc::StatusCode::OK) {
        EXPECT_EQ(status.error_message(), bad.says) << what;
        CheckRefusal(status);
      }
      CheckUnchanged(what);
    }
  }
}

// A message, or null, in which the field at the end of `path` may be set.
std::pair<Message*, const FieldDescriptor*> Descend(Message* message,
                                                    absl::string_view path) {
  const auto* const reflection = message->GetReflection();
  path.remove_prefix(path.find('.') + 1);
  const std::string name(path.substr(0, path.find('.')));
  const FieldDescriptor* const field =
      message->GetDescriptor()->FindFieldByName(name);
  if (field->message_type() == nullptr) return {message, field};
  if (field->is_repeated()) {
    return Descend(reflection->AddMessage(message, field), path);
  }
  return Descend(reflection->MutableMessage(message, field), path);
}

TEST_F(BadInputTest, AStringThatIsNotUtf8IsRefusedInEveryField) {
  google::protobuf::SetLogHandler(nullptr);
  for (const MethodDescriptor* method : Methods()) {
    std::map<std::string, const FieldDescriptor*> fields;
    AddFields(*method->input_type(), method->input_type()->name(), &fields);
    for (const auto& [path, leaf] : fields) {
      if (leaf->type() != FieldDescriptor::TYPE_STRING) continue;
      const auto message = NewMessage(*method->input_type());
      const auto [parent, field] = Descend(message.get(), path);
      if (field->is_repeated()) {
        parent->GetReflection()->AddString(parent, field, "a\xff");
      } else {
        parent->GetReflection()->SetString(parent, field, "a\xff");
      }
      const grpc::Status status = Call(*method, message->SerializeAsString());
      CheckRefusal(status);
      if (status.error_code() == grpc::StatusCode::UNIMPLEMENTED) continue;
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
          << method->name() << " " << path;
      EXPECT_EQ(ErrorInfoOf(status).reason(), "MALFORMED_REQUEST");
      CheckUnchanged(path);
    }
  }
}

TEST_F(BadInputTest, BytesThatAreCutAreRefusedOrAShorterRequest) {
  const std::string whole =
      Bytes(*v1::CompleteRequest::descriptor(),
            "request_id: 'r' session_id: 'absent' token_ids { ids: [5, 300] } "
            "sampling { temperature: 1 logit_bias { key: 3 value: 1 } } "
            "stop { strings: 'a' token_ids: 7 } top_logprobs: 2 on_cancel: 1");
  int malformed = 0;
  for (size_t size = 0; size < whole.size(); ++size) {
    std::string response;
    const grpc::Status status = server_->CallRaw(
        "/ttt.v1.Inference/Complete", whole.substr(0, size), &response);
    CheckRefusal(status);
    malformed += ErrorInfoOf(status).reason() == "MALFORMED_REQUEST";
    if (status.error_code() == grpc::StatusCode::INVALID_ARGUMENT) continue;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND) << size;
  }
  EXPECT_GT(malformed, static_cast<int>(whole.size()) / 2);
}

// As protobuf has it: a newer client may say what an older server ignores.
TEST_F(BadInputTest, UnknownFieldsAndWireTypesAreIgnored) {
  const std::string good = Bytes(*v1::CompleteRequest::descriptor(),
                                 "token_ids { ids: 9 } "
                                 "sampling { max_tokens: 2 }");
  for (const std::string& unknown :
       {std::string("\xfa\x7f\x03xyz"),       // field 2047
        std::string("\x10\x05"),              // session_id as a number
        std::string("\x42\x02zz"),            // top_logprobs as bytes
        std::string("\x1d\x01\x02\x03\x04"),  // create_session as 4 bytes
        std::string("\xfb\x7f\xfc\x7f")}) {   // a group
    std::string bytes;
    const grpc::Status status =
        server_->CallRaw("/ttt.v1.Inference/Complete", good + unknown, &bytes);
    ASSERT_TRUE(status.ok()) << status.error_message();
    v1::CompleteResponse response;
    ASSERT_TRUE(response.ParseFromString(bytes));
    EXPECT_EQ(std::vector<int32_t>(response.token_ids().begin(),
                                   response.token_ids().end()),
              good_answer_);
  }
}

TEST_F(BadInputTest, AMillionBiasesAreRefusedByTheirNumber) {
  v1::CompleteRequest request;
  request.mutable_token_ids()->add_ids(5);
  auto& bias = *request.mutable_sampling()->mutable_logit_bias();
  for (int id = 0; id < 1000000; ++id) bias[id] = 1;
  v1::CompleteResponse response;
  const grpc::Status status = server_->Complete(request, &response);
  CheckRefusal(status);
  EXPECT_EQ(status.error_message(),
            "sampling.logit_bias: has 1000000 entries, at most 1024 are "
            "allowed");
}

TEST_F(BadInputTest, APromptOfFiveMebibytesIsRefusedByItsTokens) {
  std::string prompt;
  while (prompt.size() < 5 << 20) prompt += "The morning was cold, and ";
  v1::CompleteRequest request;
  request.set_text(prompt);
  request.set_session_id(kSession);
  v1::CompleteResponse response;
  const grpc::Status status = server_->Complete(request, &response);
  CheckRefusal(status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ErrorInfoOf(status).reason(), "TOO_MANY_INPUT_TOKENS");
  v1::ScoreRequest score;
  score.set_text(prompt);
  v1::ScoreResponse scores;
  EXPECT_EQ(ErrorInfoOf(server_->Score(score, &scores)).reason(),
            "TOO_MANY_INPUT_TOKENS");
}

// gRPC's own limit, so without details.
TEST_F(BadInputTest, AMessageOfSeventeenMebibytesIsRefusedByItsSize) {
  for (const MethodDescriptor* method : Methods()) {
    if (method->client_streaming()) continue;  // It reads no message.
    const grpc::Status status = Call(*method, std::string(17 << 20, '\0'));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED)
        << method->name() << ": " << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr("message larger than max"));
  }
}

TEST_F(BadInputTest, AMethodThatIsNotThereIsUnimplemented) {
  for (const char* path : {"/ttt.v1.Inference/Delete", "/ttt.v1.Nothing/At",
                           "/", "/../../etc/passwd"}) {
    std::string response;
    EXPECT_EQ(server_->CallRaw(path, "", &response).error_code(),
              grpc::StatusCode::UNIMPLEMENTED)
        << path;
  }
}

TEST_F(BadInputTest, ABillionTokensAreATurnThatCanBeCancelled) {
  StreamCall stream(server_,
                    "token_ids { ids: 5 } session_id: 'walk' stop { "
                    "ignore_eos: true } sampling { max_tokens: 1000000000 }");
  stream.ReadTokens(3);
  stream.Cancel();
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(server_->server().WaitUntilIdle(absl::Minutes(1)));
}

TEST_F(BadInputTest, NamesOfTheLongestAndPlainestAreAccepted) {
  const std::string longest(128, 'n');
  for (const std::string& name : {longest, std::string("AZaz09._:-")}) {
    grpc::ClientContext create_context;
    v1::CreateSessionRequest create;
    create.set_session_id(name);
    v1::Session session;
    ASSERT_TRUE(server_->sessions()
                    .CreateSession(&create_context, create, &session)
                    .ok());
    EXPECT_EQ(session.session_id(), name);
    grpc::ClientContext delete_context;
    v1::DeleteSessionRequest remove;
    remove.set_session_id(name);
    v1::DeleteSessionResponse gone;
    EXPECT_TRUE(
        server_->sessions().DeleteSession(&delete_context, remove, &gone).ok());
  }
}

}  // namespace
}  // namespace ttt
