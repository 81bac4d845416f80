// README.md's call with grpcurl is one that the server knows.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

#include "ttt/v1/inference.pb.h"

namespace ttt {
namespace {

// What stands in `text` after `begin` and before `end`; empty without them.
std::string Between(const std::string& text, const std::string& begin,
                    const std::string& end) {
  const size_t at = text.find(begin);
  if (at == std::string::npos) return "";
  const size_t first = at + begin.size();
  return text.substr(first, text.find(end, first) - first);
}

TEST(ReadmeTest, TheMessageForGrpcurlIsARequestOfItsMethod) {
  std::ifstream file(TTT_SOURCE_DIR "/README.md");
  const std::string readme{std::istreambuf_iterator<char>(file), {}};
  const std::string call = Between(readme, "\ngrpcurl ", "\n```");
  const std::string json = Between(call, "-d '", "'");
  v1::CompleteRequest request;
  const auto status =
      google::protobuf::util::JsonStringToMessage(json, &request);
  EXPECT_TRUE(status.ok()) << status << " of " << json;
  EXPECT_FALSE(request.session_id().empty());
  EXPECT_FALSE(request.text().empty());

  std::string method = call.substr(call.rfind(' ') + 1);
  std::replace(method.begin(), method.end(), '/', '.');
  const auto* const found =
      google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(
          method);
  ASSERT_NE(found, nullptr) << method;
  EXPECT_EQ(found->input_type(), v1::CompleteRequest::descriptor());
}

}  // namespace
}  // namespace ttt
